"""Figures computed from logits: classification quality."""

from __future__ import annotations

from typing import NamedTuple

import torch

from gptcore.data.base import Source
from gptcore.models.base import Model
from gptcore.objectives.classify import class_logits


class ClassMetrics(NamedTuple):
    """How a classifier did."""

    accuracy: float
    """Share of right answers."""
    macro_f1: float
    """Mean over the classes of the harmonic mean of precision and recall; a class never seen nor told counts 0."""
    confusion: list[list[int]]
    """Rows: the true class; columns: the class that was told."""


@torch.no_grad()
def classify_rows(model: Model, source: Source, *, n_classes: int, batch_size: int = 32) -> ClassMetrics:
    """Classify every row of the source."""
    model.eval()
    confusion = torch.zeros(n_classes, n_classes, dtype=torch.int64)
    order = source.order(epoch=0, seed=0, batch_size=batch_size)  # similar lengths together: less padding
    for start in range(0, source.n_samples, batch_size):
        batch = source.batch(order[start : start + batch_size])
        told = class_logits(model, batch).argmax(dim=1)
        for truth, answer in zip(batch.targets["classes"].tolist(), told.tolist(), strict=True):
            confusion[truth, answer] += 1
    right = confusion.diagonal().double()
    f1 = 2 * right / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)
    accuracy = float(right.sum() / confusion.sum().clamp(min=1))
    return ClassMetrics(accuracy, float(f1.mean()), confusion.tolist())
