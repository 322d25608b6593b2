"""Classification from the network's summary of each row: a decoder's is its last real token.

Shapes: B rows, C width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from gptcore.batch import Batch, Loss
from gptcore.models.network import Network
from gptcore.objectives.base import Objective


@dataclass(frozen=True)
class Classify(Objective):
    """Cross-entropy of the class, summed over the rows; ``sums`` has the number of correct ones."""

    label_smoothing: float = 0.0
    """Share of the target's probability spread over all classes."""

    def count(self, batch: Batch) -> int:
        """Rows in the batch."""
        return len(batch.targets["classes"])

    def __call__(self, model: Network, batch: Batch) -> Loss:
        """The loss and the number of rows whose best class is right."""
        logits = class_logits(model, batch)
        classes = batch.targets["classes"]
        smoothing = self.label_smoothing if model.training else 0.0
        total = F.cross_entropy(logits, classes, reduction="sum", label_smoothing=smoothing)
        correct = int((logits.argmax(dim=1) == classes).sum())
        return Loss(total=total, count=len(classes), sums={"correct": float(correct)})


def class_logits(model: Network, batch: Batch) -> Tensor:
    """(B, K) fp32 logits of the classes, read from each row's summary."""
    hidden = model.summary(batch.inputs, lengths=batch.lengths, packed=batch.packed)  # (B, C)
    logits: Tensor = model.head(hidden)
    return logits.float()
