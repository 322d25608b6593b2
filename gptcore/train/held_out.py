"""Loss, perplexity, bits per byte and accuracy on data that is not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from gptcore.data.base import Source
from gptcore.data.windows import WindowSource
from gptcore.models.base import Model
from gptcore.objectives.base import Objective


@dataclass(frozen=True)
class HeldOut:
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
    """Mean loss over the source, or evenly spaced samples of it; the model's mode is put back afterwards.

    Uses no random numbers, so that evaluating does not change how training goes on.
    """
    was_training = model.training
    model.eval()
    n_samples = min(source.n_samples, max_samples or source.n_samples)
    total, count = 0.0, 0
    sums: dict[str, float] = {}
    chosen = np.linspace(0, source.n_samples - 1, n_samples).astype(np.int64)  # evenly spaced: a fair sample
    for start in range(0, n_samples, batch_size):
        batch = source.batch(chosen[start : start + batch_size])
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
        if isinstance(source, WindowSource):
            metrics["bits_per_byte"] = mean / math.log(2) * source.n_tokens / source.n_bytes
    return HeldOut(mean, count, metrics)
