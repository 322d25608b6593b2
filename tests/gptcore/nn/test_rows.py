"""Rows of different lengths in one tensor, and who sees whom in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gptcore.batch import Batch
from gptcore.errors import ConfigError
from gptcore.nn import mixing
from gptcore.nn.kv_cache import LayerCache, MemoryCache
from gptcore.nn.rows import resolve_rows, row_ends, row_means, row_positions, row_starts

CPU = torch.device("cpu")


def heads(n_rows: int, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(n_rows * n)
    queries, keys, values = torch.randn(3, n_rows, 2, n, 4)
    return queries, keys, values


def test_ends_starts_means_and_places_are_those_of_the_rows() -> None:
    lengths = (3, 1, 2)
    assert row_ends(lengths, packed=False, device=CPU).tolist() == [2, 0, 1]
    assert row_ends(lengths, packed=True, device=CPU).tolist() == [2, 3, 5]
    assert row_starts(lengths, packed=False, device=CPU).tolist() == [0, 0, 0]
    assert row_starts(lengths, packed=True, device=CPU).tolist() == [0, 3, 4]
    assert row_positions(lengths, device=CPU).tolist() == [0, 1, 2, 0, 0, 1]
    packed = torch.arange(6.0)[None, :, None]
    padded = torch.tensor([[0.0, 1.0, 2.0], [3.0, 9.0, 9.0], [4.0, 5.0, 9.0]])[..., None]
    for means in (row_means(packed, lengths, packed=True), row_means(padded, lengths, packed=False)):
        assert means[:, 0].tolist() == [1.0, 3.0, 4.5]
    assert row_means(padded, None, packed=False)[:, 0].tolist() == [1.0, 7.0, 6.0]


@pytest.mark.parametrize(
    ("shape", "lengths", "packed", "message"),
    [
        ((1, 6), (3, 2), True, r"expected packed rows of shape \(1, 5\), as their lengths add up, got \(1, 6\)"),
        ((2, 5), (3, 2), True, r"expected packed rows of shape \(1, 5\), as their lengths add up, got \(2, 5\)"),
        ((1, 6), (3, 3), False, r"expected 1 lengths of at most 6 positions, got 2 of up to 3; .* are packed=True"),
        ((2, 3), (4, 1), False, "expected 2 lengths of at most 3 positions, got 2 of up to 4"),
    ],
)
def test_lengths_that_are_not_those_of_the_rows_are_refused(
    shape: tuple[int, int], lengths: tuple[int, ...], packed: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_rows(torch.Size(shape), lengths, packed=packed)


@pytest.mark.parametrize("inner", [mixing.full, mixing.causal])
def test_packed_rows_see_each_themselves_as_the_inner_mix_says(inner: Any) -> None:
    lengths, whole = (4, 1, 6), heads(1, 11)
    rows = zip(*(part.split(list(lengths), dim=2) for part in whole), strict=True)
    alone = torch.cat([inner(*row, 0.0) for row in rows], dim=2)
    assert torch.equal(mixing.packed(lengths, inner=inner)(*whole, 0.0), alone)


def test_padded_rows_see_their_real_positions_alone() -> None:
    parts = heads(2, 5)
    mix = mixing.padded((5, 3))
    for _ in range(2):  # the second layer takes the mask of the first
        seen = mix(*parts, 0.0)
        assert torch.allclose(seen[:1], mixing.full(*(part[:1] for part in parts), 0.0), atol=1e-6)
        short = mixing.full(*(part[1:, :, :3] for part in parts), 0.0)
        assert torch.allclose(seen[1:, :, :3], short, atol=1e-6)


def test_rows_of_one_length_need_no_mask() -> None:
    parts = heads(2, 5)
    assert torch.equal(mixing.padded((5, 5))(*parts, 0.0), mixing.full(*parts, 0.0))


def test_a_batch_always_has_lengths() -> None:
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    assert (Batch({"tokens": tokens}, {}).lengths, Batch({"tokens": tokens}, {}).packed) == ((5, 5), False)
    assert Batch({"pixels": torch.zeros(3, 1, 8, 8)}, {}).lengths == (1, 1, 1)
    assert Batch({"tokens": tokens, "source": torch.zeros(2, 7)}, {}).lengths == (7, 7)
    packed = Batch({"tokens": tokens[:1]}, {}, lengths=(2, 3), packed=True).to("cpu")
    assert (packed.lengths, packed.packed) == ((2, 3), True)


def test_a_row_of_a_cache_is_copied_and_cleared_with_its_memory() -> None:
    def layer(size: int) -> LayerCache:
        return LayerCache(torch.randn(3, 1, size, 2), torch.randn(3, 1, size, 2))

    cache = MemoryCache([layer(4)], memory=[layer(6)])
    part = cache.part(2, 3)
    part.memory_lengths.fill_(5)
    part.advance(2)
    assert (cache.lengths.tolist(), cache.memory_lengths.tolist()) == ([0, 0, 2], [0, 0, 5])
    cache.copy_row(2, 0)
    assert (cache.lengths.tolist(), cache.memory_lengths.tolist()) == ([2, 0, 2], [5, 0, 5])
    assert torch.equal(cache.memory[0].values[0, :, :5], cache.memory[0].values[2, :, :5])
    assert not torch.equal(cache.memory[0].keys[0, :, 5:], cache.memory[0].keys[2, :, 5:])
    cache.clear(2)
    assert (cache.lengths.tolist(), cache.memory_lengths.tolist()) == ([2, 0, 0], [5, 0, 0])
