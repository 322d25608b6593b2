"""Loss, perplexity, bits per byte and accuracy on data that is not trained on."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from gptcore.data.base import Source
from gptcore.models.base import Model
from gptcore.objectives.base import Objective


class HeldOut(NamedTuple):
    """The result of an evaluation pass."""

    loss: float
    """Mean loss per item, nats."""
    count: int
    """Items (target tokens or rows)."""
    metrics: dict[str, float]
    """``loss``, and where they mean something ``perplexity``, ``bits_per_byte``, ``accuracy``."""


@torch.no_grad()
def evaluate(
    model: Model, source: Source, objective: Objective, *, batch_size: int, max_samples: int | None = None
) -> HeldOut:
    """Mean loss over the source's first samples in their own order; the model's mode is put back afterwards.

    Uses no random numbers, so that evaluating does not change how training goes on.
    """
    was_training = model.training
    model.eval()
    n_samples = min(source.n_samples, max_samples or source.n_samples)
    total, count = 0.0, 0
    sums: dict[str, float] = {}
    for start in range(0, n_samples, batch_size):
        batch = source.batch(range(start, min(start + batch_size, n_samples)))
        loss = objective(model, batch)
        total += float(loss.total)
        count += loss.count
        for name, value in loss.sums.items():
            sums[name] = sums.get(name, 0.0) + value
    model.train(was_training)
    mean = total / max(1, count)
    metrics = {"loss": mean}
    if "correct" in sums:
        metrics["accuracy"] = sums["correct"] / max(1, count)
    else:
        metrics["perplexity"] = math.exp(min(mean, 700.0))
        bytes_per_token = getattr(source, "bytes_per_token", None)
        if bytes_per_token:
            metrics["bits_per_byte"] = mean / math.log(2) / bytes_per_token
    return HeldOut(mean, count, metrics)
