"""Next-token prediction: cross-entropy where there is a label, and nowhere else.

Shapes: B rows, T positions, C width, N target positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gptcore.batch import IGNORED, Batch, Loss
from gptcore.models.base import Model
from gptcore.nn.linear_loss import linear_cross_entropy
from gptcore.objectives.base import Objective


@dataclass(frozen=True)
class NextToken(Objective):
    """Cross-entropy of the next token, in nats, summed over the target positions."""

    def count(self, batch: Batch) -> int:
        """Target positions in the batch."""
        return int((batch.targets["labels"] != IGNORED).sum())

    def __call__(self, model: Model, batch: Batch) -> Loss:
        """Head and cross-entropy are computed at target positions only."""
        labels = batch.targets["labels"].flatten()  # (B * T,)
        features, head = model.features_and_head(batch.inputs["tokens"], lengths=batch.lengths)
        hidden = features.flatten(0, 1)  # (B * T, C)
        wanted = labels != IGNORED
        if not bool(wanted.all()):
            chosen = wanted.nonzero().squeeze(1)  # (N,)
            hidden, labels = hidden.index_select(0, chosen), labels.index_select(0, chosen)
        if head is not None:
            total = linear_cross_entropy(hidden, head, labels)
        else:
            total = torch.nn.functional.cross_entropy(model.head(hidden).float(), labels, reduction="sum")
        return Loss(total=total, count=len(labels), sums={})
