"""Loss, perplexity, bits per byte and accuracy on data that is not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from gptcore.data.base import Source
from gptcore.data.windows import WindowSource
from gptcore.models.network import Network
from gptcore.objectives.base import Objective
from gptcore.train.parallel import Parallel


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
    model: Network,
    source: Source,
    objective: Objective,
    *,
    batch_size: int,
    max_samples: int | None = None,
    parallel: Parallel | None = None,
) -> HeldOut:
    """Mean loss over the source, or evenly spaced samples of it; the model's mode is put back afterwards.

    Uses no random numbers, so that evaluating does not change how training goes on. Several processes share the
    batches; one that has none left computes another's without counting it, because all must take part in each pass.
    """
    parallel = parallel or Parallel(torch.device("cpu"))
    was_training = model.training
    model.eval()
    n_samples = min(source.n_samples, max_samples or source.n_samples)
    total, count = 0.0, 0
    sums: dict[str, float] = {}
    chosen = np.linspace(0, source.n_samples - 1, n_samples).astype(np.int64)  # evenly spaced: a fair sample
    starts = range(0, n_samples, batch_size)
    for turn in range(0, len(starts), parallel.world_size):
        own = turn + parallel.rank
        start = starts[min(own, len(starts) - 1)]
        loss = objective(model, source.batch(chosen[start : start + batch_size]).to(parallel.device))
        for name, value in loss.sums.items():
            sums[name] = sums.get(name, 0.0) + (value if own < len(starts) else 0.0)
        if own < len(starts):
            total += float(loss.total)
            count += loss.count
    total, n_items, *further = parallel.sum([total, count, *(sums[name] for name in sorted(sums))])
    count, sums = int(n_items), dict(zip(sorted(sums), further, strict=True))
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
