"""Held-out figures against the definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptcore.data.ledger import Ledger
from gptcore.data.rows import PaddedRows, RowClasses
from gptcore.models import GPT
from gptcore.objectives import Classify, NextToken
from gptcore.tokenizer import Tokenizer
from gptcore.train import evaluate
from gptcore.transforms import Classifier

Build = Callable[..., GPT]


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_loss_perplexity_and_bits_per_byte_follow_from_all_targets(gpt: Build, prepared: Any, batch_size: int) -> None:
    model, source = gpt(), prepared.held_out.open()
    batch = source.batch(range(source.n_samples))
    logits = model(batch.inputs["tokens"]).flatten(0, 1)
    mean = F.cross_entropy(logits, batch.targets["labels"].flatten()).item()
    found = evaluate(model, source, NextToken(), batch_size=batch_size)
    assert found.counts == {"next_token": source.n_samples * 16}
    assert found.loss == found.metrics["loss"] == pytest.approx(mean, rel=1e-5)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
    bits = mean / math.log(2) * source.text_size.n_tokens / source.text_size.n_bytes
    assert found.metrics["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_accuracy_is_told_instead_of_perplexity_for_classes(gpt: Build, tokenizer: Tokenizer) -> None:
    model = Classifier(labels=("a", "b")).apply(gpt()).eval()
    rows = [np.arange(1, n + 2) for n in range(7)]
    told = [int(model(torch.as_tensor(row)[None])[0, -1].argmax()) for row in rows]
    classes = np.array([told[0], *(1 - told[i] for i in (1, 2)), *told[3:]])
    source = PaddedRows(rows, RowClasses(classes), tokenizer=tokenizer, ledger=Ledger())
    found = evaluate(model, source, Classify(), batch_size=3)
    assert found.metrics == {"loss": found.loss, "accuracy": pytest.approx(5 / 7)}
    assert found.counts == {"class": 7}


def test_a_sample_is_spread_evenly_and_does_not_depend_on_chance(gpt: Build, prepared: Any) -> None:
    model, source = gpt(), prepared.train.open()
    chosen = np.linspace(0, source.n_samples - 1, 5).astype(int)
    losses = [evaluate_one(model, source, int(i)) for i in chosen]
    found = evaluate(model, source, NextToken(), batch_size=2, max_samples=5)
    assert found.counts == {"next_token": 5 * 16}
    assert found.loss == pytest.approx(sum(losses) / 5, rel=1e-5)
    every = evaluate(model, source, NextToken(), batch_size=2, max_samples=10**6)
    assert every.counts == {"next_token": source.n_samples * 16}


def evaluate_one(model: GPT, source: Any, i: int) -> float:
    batch = source.batch([i])
    loss = NextToken()(model, batch)
    return loss.total.item() / sum(NextToken().counts(batch).values())


def test_evaluating_uses_no_random_numbers_and_puts_the_mode_back(gpt: Build, prepared: Any) -> None:
    model = gpt(dropout=0.5).train()
    state = torch.get_rng_state()
    first = evaluate(model, prepared.held_out.open(), NextToken(), batch_size=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert evaluate(model, prepared.held_out.open(), NextToken(), batch_size=2) == first
