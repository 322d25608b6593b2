"""The key/value cache: lengths, masks, ragged writes, and rows taken out of it."""

from __future__ import annotations

import torch

from gptcore.nn import KVCache, LayerCache


def cache_of(n_rows: int, *, capacity: int = 6) -> KVCache:
    shape = (n_rows, 1, capacity, 2)
    return KVCache([LayerCache(torch.zeros(shape), torch.zeros(shape))])


def test_equal_rows_need_no_mask_for_one_new_token() -> None:
    cache = cache_of(2)
    cache.advance(3)
    assert cache.mask(cache.positions(1)) == (None, 4)
    assert cache.common_length == 3


def test_several_new_tokens_see_the_past_and_themselves() -> None:
    cache = cache_of(1)
    cache.advance(2)
    mask, n_keys = cache.mask(cache.positions(2))
    assert n_keys == 4
    assert mask is not None
    assert mask.squeeze().tolist() == [[True, True, True, False], [True, True, True, True]]


def test_ragged_rows_see_only_their_own_keys() -> None:
    cache = cache_of(2)
    cache.advance(torch.tensor([1, 3]))
    assert cache.common_length is None
    mask, n_keys = cache.mask(cache.positions(1))
    assert n_keys == 4
    assert mask is not None
    assert mask[:, 0, 0].tolist() == [[True, True, False, False], [True, True, True, True]]


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


def test_selected_rows_keep_their_keys_and_become_common_again() -> None:
    cache = cache_of(3)
    cache.layers[0].keys.copy_(torch.randn(3, 1, 6, 2))
    cache.advance(torch.tensor([2, 4, 4]))
    kept = cache.select(torch.tensor([1, 2]))
    assert kept.common_length == 4
    assert torch.equal(kept.layers[0].keys, cache.layers[0].keys[1:])
    assert cache.select(torch.tensor([0, 1])).common_length is None
