"""The key/value cache: lengths, ragged writes, and parts that share its memory."""

from __future__ import annotations

import torch

from gptcore.nn import KVCache, LayerCache


def cache_of(n_rows: int, *, capacity: int = 6) -> KVCache:
    shape = (n_rows, 1, capacity, 2)
    return KVCache([LayerCache(torch.zeros(shape), torch.zeros(shape))])


def test_new_tokens_stand_behind_what_each_row_holds() -> None:
    cache = cache_of(2)
    cache.advance(torch.tensor([1, 3]))
    cache.advance(1)
    assert cache.positions(2).tolist() == [[2, 3], [4, 5]]


def test_a_ragged_write_puts_each_row_behind_its_own_end() -> None:
    cache = cache_of(2)
    cache.advance(torch.tensor([1, 3]))
    new = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 4.0]]]])  # (B, H, T, D)
    cache.layers[0].write(new, -new, start=None, positions=cache.positions(1))
    assert cache.layers[0].keys[0, 0, 1].tolist() == [1.0, 2.0]
    assert cache.layers[0].keys[1, 0, 3].tolist() == [3.0, 4.0]
    assert cache.layers[0].values[1, 0, 3].tolist() == [-3.0, -4.0]
    assert int((cache.layers[0].keys != 0).sum()) == 4


def test_a_common_start_writes_the_same_as_ragged_positions() -> None:
    one, other = cache_of(2), cache_of(2)
    new = torch.randn(2, 1, 3, 2)
    one.layers[0].write(new, -new, start=1, positions=torch.tensor([[1, 2, 3], [1, 2, 3]]))
    other.layers[0].write(new, -new, start=None, positions=torch.tensor([[1, 2, 3], [1, 2, 3]]))
    assert torch.equal(one.layers[0].keys, other.layers[0].keys)
    assert torch.equal(one.layers[0].values, other.layers[0].values)


def test_a_part_and_the_whole_are_the_same_memory() -> None:
    cache = cache_of(4)
    part = cache.part(1, 3)
    part.layers[0].write(torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2), start=0, positions=part.positions(2))
    part.advance(2)
    assert cache.lengths.tolist() == [0, 2, 2, 0]
    assert cache.layers[0].keys[:, 0, :, 0].sum(dim=1).tolist() == [0.0, 2.0, 2.0, 0.0]
    cache.clear(1)
    assert part.lengths.tolist() == [0, 2]


def test_a_copied_row_holds_what_the_other_holds() -> None:
    cache = cache_of(3)
    cache.layers[0].keys.copy_(torch.randn(3, 1, 6, 2))
    cache.advance(torch.tensor([5, 1, 3]))
    cache.copy_row(2, 0)
    assert cache.lengths.tolist() == [3, 1, 3]
    assert torch.equal(cache.layers[0].keys[0, :, :3], cache.layers[0].keys[2, :, :3])
