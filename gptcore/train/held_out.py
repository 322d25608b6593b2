"""The loss, and what the objective measures, on data that is not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gptcore.data.base import Source
from gptcore.errors import DataError
from gptcore.models.network import Network
from gptcore.objectives.base import Objective
from gptcore.train.parallel import Parallel
from gptcore.train.weighing import Weighing


@dataclass(frozen=True)
class HeldOut:
    """The result of an evaluation pass."""

    loss: float
    """Mean loss per item, nats for a cross-entropy; of several parts, the weighted sum of their means."""
    counts: dict[str, int]
    """Items (target tokens or rows) of each part."""
    metrics: dict[str, float]
    """``loss``, ``loss/<part>`` where there is more than one, and the objective's figures."""


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

    Uses no random numbers, so that evaluating does not change the training. Several processes share the
    batches; one that has none left computes another's without counting it, because all must take part in each pass.

    Raises:
        DataError: there is no target in all of it.
    """
    parallel, weighing = parallel or Parallel(torch.device("cpu")), Weighing(objective)
    was_training = model.training
    model.eval()
    n_samples = min(source.n_samples, max_samples or source.n_samples)
    n_parts = len(weighing.weights)
    found = [0.0] * (2 * n_parts)  # sums, then counts
    further: dict[str, float] = {}
    chosen = np.linspace(0, source.n_samples - 1, n_samples).astype(np.int64)  # evenly spaced: a fair sample
    starts = range(0, n_samples, batch_size)
    for turn in range(0, len(starts), parallel.world_size):
        own = turn + parallel.rank
        start = starts[min(own, len(starts) - 1)]
        batch = source.batch(chosen[start : start + batch_size])
        loss = objective(model, batch.to(parallel.device))
        real = own < len(starts)
        for name, value in loss.sums.items():
            further[name] = further.get(name, 0.0) + (value if real else 0.0)
        if real:
            new = (*weighing.sums(loss), *weighing.counts([batch]))
            found = [one + other for one, other in zip(found, new, strict=True)]
    model.train(was_training)
    names = sorted(further)
    found = parallel.sum([*found, *(further[name] for name in names)])
    sums, counts = found[:n_parts], [int(count) for count in found[n_parts : 2 * n_parts]]
    if not any(counts):
        raise DataError("the held-out data has no target at all; check the data's ledger")
    means, by_name = weighing.means(sums, counts), dict(zip(weighing.weights, counts, strict=True))
    figures = objective.figures(means, dict(zip(names, found[2 * n_parts :], strict=True)), by_name, source)
    metrics = weighing.metrics(sums, counts)
    return HeldOut(metrics["loss"], by_name, metrics | figures)
