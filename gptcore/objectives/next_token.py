"""Next-token prediction: cross-entropy where there is a label, and nowhere else.

Shapes: B rows, T positions, C width, N target positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptcore.batch import IGNORED, Batch, Loss
from gptcore.models.network import Network, as_words
from gptcore.nn.linear_loss import linear_cross_entropy
from gptcore.objectives.base import Objective


@dataclass(frozen=True)
class NextToken(Objective):
    """Cross-entropy of the next token, in nats, summed over the target positions."""

    def count(self, batch: Batch) -> int:
        """Target positions in the batch."""
        return int((batch.targets["labels"] != IGNORED).sum())

    def __call__(self, model: Network, batch: Batch) -> Loss:
        """Head and cross-entropy are computed at target positions only."""
        words = as_words(model, purpose="a loss of tokens")
        features, head = words.features_and_head(batch.inputs["tokens"], lengths=batch.lengths, packed=batch.packed)
        hidden, labels = target_rows(features, batch.targets["labels"])
        if head is not None:
            total = linear_cross_entropy(hidden, head, labels)
        else:
            total = torch.nn.functional.cross_entropy(model.head(hidden).float(), labels, reduction="sum")
        return Loss(total=total, count=len(labels), sums={})


def target_rows(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, T, C) and labels (B, T) at the positions that have a label: (N, C) and (N,)."""
    hidden, wanted = features.flatten(0, 1), labels.flatten()
    there = wanted != IGNORED
    if bool(there.all()):
        return hidden, wanted
    chosen = there.nonzero().squeeze(1)  # (N,)
    return hidden.index_select(0, chosen), wanted.index_select(0, chosen)
