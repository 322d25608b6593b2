"""Embedding and head share their weights and one gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gptcore.models.gpt import GPT
from gptcore.nn.linear_loss import linear_cross_entropy
from gptcore.nn.tied import look_up_tied

Build = Callable[..., GPT]


def parts(uses: str) -> tuple[Tensor, Tensor]:
    """The gradient of a loss of looked-up rows and head, through the shared lookup and through autograd's own sum."""
    torch.manual_seed(0)
    weight, tokens = torch.randn(11, 4, dtype=torch.float64, requires_grad=True), torch.tensor([[3, 3, 0], [10, 3, 5]])
    found = []
    for rows, head in (look_up_tied(weight, tokens), (weight[tokens], weight)):
        loss = torch.zeros((), dtype=torch.float64)
        if "rows" in uses:
            loss = loss + rows.tanh().square().sum()
        if "head" in uses:
            loss = loss + (rows.detach().flatten(0, 1) @ head.T).logsumexp(1).sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        found.append(gradient)
    return found[0], found[1]


@pytest.mark.parametrize("uses", ["rows", "head", "rows and head"])
def test_the_gradient_is_the_sum_over_both_uses(uses: str) -> None:
    shared, separate = parts(uses)
    assert torch.allclose(shared, separate, rtol=1e-12)
    assert float(shared.abs().sum()) > 0


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_has_the_same_gradients_with_and_without_the_shared_lookup(gpt: Build, tied: bool) -> None:
    model, tokens, labels = gpt(tied_head=tied), torch.randint(0, 300, (2, 9)), torch.randint(0, 300, (18,))
    found = []
    for features, head in (
        model.features_and_head(tokens),
        (model.features(tokens), model.head.weight),
    ):
        model.zero_grad()
        linear_cross_entropy(features.flatten(0, 1), head, labels).backward()  # type: ignore[arg-type]
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-4, atol=1e-5), name


def test_gradients_of_several_passes_add_up(gpt: Build) -> None:
    model, tokens, labels = gpt(), torch.randint(0, 300, (2, 9)), torch.randint(0, 300, (2, 9))
    weight = model.token_embedding.weight
    features, head = model.features_and_head(tokens)
    linear_cross_entropy(features.flatten(0, 1), head, labels.flatten()).backward()
    whole = weight.grad.clone()
    model.zero_grad()
    for i in range(2):
        features, head = model.features_and_head(tokens[i : i + 1])
        linear_cross_entropy(features.flatten(0, 1), head, labels[i]).backward()
    assert torch.allclose(weight.grad, whole, rtol=1e-4, atol=1e-5)
