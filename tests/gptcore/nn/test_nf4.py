"""NormalFloat: the paper's code book from its formula, bounds, layout, and gradients through a frozen layer."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm

from gptcore.errors import ConfigError
from gptcore.nn.nf4 import CODES, NF4Embedding, NF4Linear, NF4Matrix


def test_the_codes_are_the_papers_quantiles_of_the_normal_distribution() -> None:
    """8 of the positive half and 7 of the negative, 0 between, scaled to 1 (section 3 and the authors' offset)."""
    offset = (1 - 1 / (2 * 15) + 1 - 1 / (2 * 16)) / 2
    positive = [norm.ppf(offset + (0.5 - offset) * i / 8) for i in range(8)]
    negative = [-norm.ppf(offset + (0.5 - offset) * i / 7) for i in range(7)]
    wanted = sorted([*positive, 0.0, *negative])
    assert [value / wanted[-1] for value in wanted] == pytest.approx(CODES, abs=2e-4)
    assert CODES[0] == -1.0
    assert CODES[7] == 0.0
    assert CODES[15] == 1.0
    assert list(CODES) == sorted(set(CODES))


def test_values_of_the_code_book_come_back_exactly_in_their_nibbles() -> None:
    weight = torch.tensor([CODES, CODES[::-1]]) * 3.0
    matrix = NF4Matrix(weight, block_size=16)
    assert matrix.codes[0].tolist() == [low | (low + 1) << 4 for low in range(0, 16, 2)]
    assert torch.equal(matrix.dense(), weight)
    assert matrix.shape == (2, 16)
    assert matrix.n_weights == 32


@pytest.mark.parametrize("spread", [1e-6, 1.0, 300.0])
def test_it_errs_by_at_most_half_the_widest_gap_and_what_the_scale_lost(spread: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 192) * spread * torch.rand(40, 1)
    matrix = NF4Matrix(weight, block_size=64)
    largest = weight.view(40, 3, 64).abs().amax(dim=-1, keepdim=True)
    lost = (largest.max() - largest.min()) / 255 / 2 * 1.01
    widest = max(b - a for a, b in itertools.pairwise(CODES)) / 2
    error = (matrix.dense().view(40, 3, 64) - weight.view(40, 3, 64)).abs()
    assert bool((error <= widest * (largest + lost) + lost).all())


def test_more_scales_than_share_one_second_scale_are_each_found_again() -> None:
    torch.manual_seed(0)
    weight = torch.randn(300, 16) * torch.linspace(0.1, 100, 300)[:, None]
    matrix = NF4Matrix(weight, block_size=8)  # 600 scales: three second ones
    assert matrix.scale_steps.shape == (3, 2)
    relative = (matrix.dense() - weight).norm(dim=1) / weight.norm(dim=1)
    assert float(relative[10:].max()) < 0.35
    rows = torch.tensor([[3, 299], [128, 0]])
    assert torch.equal(matrix.dense(rows), matrix.dense()[rows])
    assert torch.equal(NF4Embedding(matrix)(rows), matrix.dense()[rows])


def test_zeros_stay_zeros() -> None:
    weight = torch.zeros(2, 8)
    assert torch.equal(NF4Matrix(weight, block_size=4).dense(), weight)
    weight[0, 1] = 5.0
    assert torch.equal(NF4Matrix(weight, block_size=4).dense(), weight)


def test_it_takes_a_little_more_than_half_a_byte_for_each_weight() -> None:
    matrix = NF4Matrix(torch.randn(256, 256), block_size=64)
    n_bytes = sum(buffer.numel() * buffer.element_size() for buffer in matrix.buffers())
    assert 8 * n_bytes / 256**2 == pytest.approx(4 + 8 / 64 + 64 / (64 * 256), abs=1e-3)  # 4.13 bits


def test_the_gradient_through_a_frozen_layer_is_that_of_its_dense_weights() -> None:
    torch.manual_seed(0)
    matrix, bias = NF4Matrix(torch.randn(6, 8), block_size=4), torch.randn(6)
    layer = NF4Linear(matrix, bias)
    x, y = (torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    layer(x).square().sum().backward()
    F.linear(y, matrix.dense(), bias).square().sum().backward()
    assert torch.equal(layer(x), F.linear(y, matrix.dense(), bias))
    assert x.grad is not None
    assert y.grad is not None
    assert torch.allclose(x.grad, y.grad, atol=1e-5)
    assert (layer.in_features, layer.out_features) == (8, 6)
    assert not any(p.requires_grad for p in layer.parameters())


def test_dense_weights_are_not_kept_for_the_backward_pass() -> None:
    layer = NF4Linear(NF4Matrix(torch.randn(64, 64), block_size=64), None)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(2, 64, requires_grad=True))
    assert not [t for t in kept if t.numel() == 64 * 64]


@pytest.mark.parametrize(
    ("weight", "block_size", "message"),
    [
        (torch.full((2, 8), torch.nan), 4, "a weight is NaN or infinite; a diverged model cannot be quantized"),
        (torch.ones(2, 8), 3, "8 inputs cannot be cut into blocks of 3; choose an even divisor"),
        (torch.ones(2, 8), 16, "8 inputs cannot be cut into blocks of 16"),
    ],
)
def test_what_cannot_be_quantized_is_refused(weight: torch.Tensor, block_size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NF4Matrix(weight, block_size=block_size)
