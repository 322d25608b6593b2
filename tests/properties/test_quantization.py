"""Error bounds of quantization for any finite weights.

Shapes: O outputs (rows), I inputs, G group size.
"""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptcore.transforms import QuantizedMatrix


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Tensor, int]:
    """An (O, I) matrix of any scale with a group size that divides I."""
    group_size = draw(st.sampled_from([2, 4, 8]))
    shape = (draw(st.integers(1, 4)), group_size * draw(st.integers(1, 3)))
    values = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
    numbers = draw(st.lists(values, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return torch.tensor(numbers).view(shape) * 10.0 ** draw(st.integers(-6, 2)), group_size


@settings(max_examples=150, deadline=None)
@given(matrices())
def test_int8_errs_by_at_most_half_a_step_of_its_row(case: tuple[Tensor, int]) -> None:
    weight, group_size = case
    dense = QuantizedMatrix(weight, bits=8, group_size=group_size).dense()
    step = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    assert bool(((dense - weight).abs() <= step * 0.5 + weight.abs() * 1e-5).all())


@settings(max_examples=150, deadline=None)
@given(matrices())
def test_int4_errs_by_at_most_half_a_step_of_its_group(case: tuple[Tensor, int]) -> None:
    weight, group_size = case
    groups = weight.unflatten(1, (-1, group_size))
    dense = QuantizedMatrix(weight, bits=4, group_size=group_size).dense().unflatten(1, (-1, group_size))
    largest = groups.abs().amax(dim=-1, keepdim=True)
    step = (groups.amax(dim=-1, keepdim=True) - groups.amin(dim=-1, keepdim=True)) / 15
    assert bool(((dense - groups).abs() <= step * 0.5 + largest * 1e-5 + 1e-11).all())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=8, max_size=64).filter(lambda codes: len(codes) % 4 == 0))
def test_any_codes_survive_packing(codes: list[int]) -> None:
    """Weights that are themselves codes 0 to 15 in every group come back exactly."""
    rows = torch.tensor([[0.0, 15.0, *codes[i : i + 2]] for i in range(0, len(codes), 2)]).flatten()[None]
    matrix = QuantizedMatrix(rows, bits=4, group_size=4)
    assert torch.equal(matrix.dense(), rows)
    assert matrix.codes.shape == (1, rows.shape[1] // 2)


@settings(max_examples=100, deadline=None)
@given(matrices(), st.sampled_from([4, 8]))
def test_quantizing_again_changes_little(case: tuple[Tensor, int], bits: int) -> None:
    weight, group_size = case
    once = QuantizedMatrix(weight, bits=bits, group_size=group_size).dense()
    twice = QuantizedMatrix(once, bits=bits, group_size=group_size).dense()
    assert torch.allclose(once, twice, rtol=1e-4, atol=float(weight.abs().max()) * 1e-4 + 1e-11)
