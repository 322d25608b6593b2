"""Classification from the network's summary of each row: a decoder's is its last real token.

Shapes: B rows, C width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcore.batch import Batch, Loss
from gptcore.data.base import Source
from gptcore.models.network import Network
from gptcore.nn.distill_loss import Mixture, distill_rows
from gptcore.objectives.base import Objective
from gptcore.objectives.fitting import check_class_head, check_same_outputs

_PART = "class"


@dataclass(frozen=True)
class Classify(Objective):
    """Cross-entropy of the class, summed over the rows; ``sums`` has the number of correct ones."""

    distillable: ClassVar[bool] = True

    label_smoothing: float = 0.0
    """Share of the target's probability spread over all classes."""

    def weights(self) -> dict[str, float]:
        """One part."""
        return {_PART: 1.0}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Rows in the batch."""
        return {_PART: len(batch.targets["classes"])}

    def __call__(self, model: Network, batch: Batch) -> Loss:
        """The loss and the number of rows whose best class is right."""
        logits = class_logits(model, batch)
        classes = batch.targets["classes"]
        smoothing = self.label_smoothing if model.training else 0.0
        total = F.cross_entropy(logits, classes, reduction="sum", label_smoothing=smoothing)
        return Loss({_PART: total}, sums=_correct(logits, classes))

    def figures(
        self, means: Mapping[str, float], sums: Mapping[str, float], counts: Mapping[str, int], source: Source
    ) -> dict[str, float]:
        """``accuracy``: the share of rows whose best class is right."""
        del means, source
        return {"accuracy": sums["correct"] / counts[_PART]}

    def fits(self, network: Network) -> None:
        """A network with a head over classes.

        Raises:
            ConfigError: the head is over the words.
        """
        check_class_head(type(self).__name__, network)

    def distill(self, student: Network, teacher: Network, batch: Batch, mixture: Mixture) -> Loss:
        """The teacher's probabilities of the same classes.

        Raises:
            ConfigError: teacher and student differ in the number of their classes.
        """
        logits, classes = class_logits(student, batch), batch.targets["classes"]
        with torch.no_grad():
            theirs = class_logits(teacher, batch)
        check_same_outputs(theirs.shape[1], logits.shape[1], what="classes")
        with torch.no_grad():
            loss, slope = distill_rows(logits, theirs, classes, mixture)
        # the value of the loss with the gradient that belongs to it
        total = (logits * slope).sum()
        total = total + (loss - total).detach()
        return Loss({_PART: total}, sums=_correct(logits, classes))


def class_logits(model: Network, batch: Batch) -> Tensor:
    """(B, K) fp32 logits of the classes, read from each row's summary."""
    hidden = model.summary(batch.inputs, lengths=batch.lengths, packed=batch.packed)  # (B, C)
    logits: Tensor = model.head(hidden)
    return logits.float()


def _correct(logits: Tensor, classes: Tensor) -> dict[str, float]:
    return {"correct": float(int((logits.argmax(dim=1) == classes).sum()))}
