"""Next-token loss: only where there is a label, and as a sum with its count."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from gptcore.batch import IGNORED, Batch
from gptcore.models import GPT
from gptcore.objectives import NextToken
from gptcore.transforms import Quantize

Build = Callable[..., GPT]


def masked_batch() -> Batch:
    tokens, labels = torch.randint(300, (3, 8)), torch.randint(300, (3, 8))
    labels[0, :5] = IGNORED
    labels[1, 2:] = IGNORED
    return Batch({"tokens": tokens}, {"labels": labels}, n_tokens=24)


@pytest.mark.parametrize("tied_head", [True, False])
def test_the_loss_is_the_sum_of_cross_entropies_at_the_labels(gpt: Build, tied_head: bool) -> None:
    model, batch = gpt(tied_head=tied_head), masked_batch()
    logits = model(batch.inputs["tokens"]).flatten(0, 1)
    expected = F.cross_entropy(logits, batch.targets["labels"].flatten(), ignore_index=IGNORED, reduction="sum")
    loss = NextToken()(model, batch)
    assert NextToken().counts(batch) == dict.fromkeys(loss.parts, 3 + 2 + 8)
    assert torch.allclose(loss.total, expected, rtol=1e-5)


def test_every_gradient_equals_the_plain_ones(gpt: Build) -> None:
    model, batch = gpt(), masked_batch()
    logits = model(batch.inputs["tokens"]).flatten(0, 1)
    F.cross_entropy(logits, batch.targets["labels"].flatten(), ignore_index=IGNORED, reduction="sum").backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    NextToken()(model, batch).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert expected[name] is not None
        assert torch.allclose(parameter.grad, expected[name], atol=2e-5, rtol=1e-4), name


def test_the_batch_is_born_shifted(gpt: Build) -> None:
    """The label at a position is the token after it: nothing is shifted again."""
    model, tokens = gpt(), torch.randint(300, (1, 9))
    loss = NextToken()(model, Batch({"tokens": tokens[:, :-1]}, {"labels": tokens[:, 1:]}))
    chances = model(tokens[:, :-1]).log_softmax(dim=-1)[0]
    expected = -sum(chances[i, tokens[0, i + 1]] for i in range(8))
    assert loss.total.item() == pytest.approx(float(torch.as_tensor(expected).detach()), rel=1e-5)


def test_padding_changes_nothing(gpt: Build) -> None:
    model, batch = gpt(), masked_batch()
    wider = Batch(
        {"tokens": F.pad(batch.inputs["tokens"], (0, 3), value=7)},
        {"labels": F.pad(batch.targets["labels"], (0, 3), value=IGNORED)},
    )
    assert torch.allclose(NextToken()(model, wider).total, NextToken()(model, batch).total, rtol=1e-6)


def test_a_quantized_head_gives_the_same_loss_as_its_logits(gpt: Build) -> None:
    model, batch = Quantize().apply(gpt()), masked_batch()
    logits = model(batch.inputs["tokens"]).flatten(0, 1)
    expected = F.cross_entropy(logits, batch.targets["labels"].flatten(), ignore_index=IGNORED, reduction="sum")
    assert torch.allclose(NextToken()(model, batch).total, expected, rtol=1e-5)


def test_no_label_at_all_gives_a_zero_sum_of_nothing(gpt: Build) -> None:
    batch = Batch({"tokens": torch.zeros(1, 4, dtype=torch.int64)}, {"labels": torch.full((1, 4), IGNORED)})
    loss = NextToken()(gpt(), batch)
    assert (loss.total.item(), loss.total.requires_grad) == (0.0, True)
    assert NextToken().counts(batch) == dict.fromkeys(loss.parts, 0)
