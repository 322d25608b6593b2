"""The fused head and loss against torch's cross-entropy: value and both gradients, whatever the chunk size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptcore.nn import linear_cross_entropy, linear_loss

N, C, V = 13, 8, 29


def parts() -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.randn(N, C, requires_grad=True)
    weight = torch.randn(V, C, requires_grad=True)
    return hidden, weight, torch.randint(V, (N,))


@pytest.mark.parametrize("rows_at_a_time", [0, 1, 2, 5, 12, 13, 100])
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_value_and_both_gradients_equal_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, rows_at_a_time: int, scale: float
) -> None:
    monkeypatch.setattr(linear_loss, "CHUNK_ELEMENTS", rows_at_a_time * V)
    hidden, weight, labels = parts()
    expected = F.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    wanted = torch.autograd.grad(expected * scale, (hidden, weight))
    loss = linear_cross_entropy(hidden, weight, labels)
    found = torch.autograd.grad(loss * scale, (hidden, weight))
    assert torch.allclose(loss, expected, rtol=1e-6)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    """Central differences along random directions, independent of any autograd."""
    hidden, weight, labels = parts()
    linear_cross_entropy(hidden, weight, labels).backward()
    for leaf in (hidden, weight):
        direction = torch.randn_like(leaf)
        with torch.no_grad():
            both = [
                F.cross_entropy(
                    (
                        (hidden + e * direction) @ weight.T if leaf is hidden else hidden @ (weight + e * direction).T
                    ).double(),
                    labels,
                    reduction="sum",
                )
                for e in (1e-3, -1e-3)
            ]
        slope = float(both[0] - both[1]) / 2e-3
        assert leaf.grad is not None
        assert float((leaf.grad * direction).sum()) == pytest.approx(slope, rel=2e-3, abs=2e-3)


def test_a_frozen_weight_gets_no_gradient() -> None:
    hidden, weight, labels = parts()
    weight.requires_grad_(False)
    linear_cross_entropy(hidden, weight, labels).backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_frozen_features_leave_the_weights_gradient() -> None:
    hidden, weight, labels = parts()
    linear_cross_entropy(hidden.detach(), weight, labels).backward()
    expected = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, labels, reduction="sum"), weight)[0]
    assert weight.grad is not None
    assert torch.allclose(weight.grad, expected, atol=1e-5)


def test_nothing_is_prepared_for_a_backward_pass_that_cannot_come() -> None:
    hidden, weight, labels = parts()
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, labels)
    assert not loss.requires_grad
    assert torch.allclose(loss, F.cross_entropy(hidden @ weight.T, labels, reduction="sum"))


def test_huge_logits_stay_finite() -> None:
    hidden, weight = torch.full((2, 2), 1e3, requires_grad=True), torch.tensor([[1e2, 1e2], [-1e2, 0.0]])
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(3e5)
    assert hidden.grad is not None
    assert bool(torch.isfinite(hidden.grad).all())
