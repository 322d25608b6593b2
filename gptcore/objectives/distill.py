"""Distillation: a student learns from a teacher's probabilities beside the labels.

"Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from gptcore import checkpoint
from gptcore.batch import Batch, Loss
from gptcore.data.base import Source
from gptcore.errors import ConfigError
from gptcore.models.network import Network
from gptcore.nn.distill_loss import Mixture
from gptcore.objectives.base import Objective
from gptcore.objectives.fitting import check_same_outputs, n_outputs_of
from gptcore.objectives.next_token import NextToken


@dataclass(frozen=True)
class Distill(Objective):
    """(1 - soft) * the hard loss + soft * T^2 * KL(teacher || student) at temperature T, while training.

    In evaluation it is the hard loss alone, so that held-out figures compare with those of any other training.
    """

    teacher: Path
    """Checkpoint of the teacher, with the student's vocabulary or classes."""
    objective: Objective = field(default_factory=NextToken)
    """The hard loss; one that says how to learn from a teacher, such as ``NextToken`` or ``Classify``."""
    temperature: float = 2.0
    """T: both models' logits are divided by it."""
    soft: float = 0.5
    """Share of the teacher; the rest is the labels'."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not self.temperature > 0:
            raise ConfigError(f"expected temperature to be above 0, got {self.temperature}")
        if not 0.0 <= self.soft <= 1.0:
            raise ConfigError(f"expected soft to be from 0 to 1, got {self.soft}")
        if not self.objective.distillable:
            raise ConfigError(
                f"{type(self.objective).__name__} cannot be distilled: it does not say how to learn from a teacher; "
                "choose NextToken or Classify"
            )

    def weights(self) -> dict[str, float]:
        """The parts of the hard loss."""
        return self.objective.weights()

    def counts(self, batch: Batch) -> dict[str, int]:
        """As the hard loss counts."""
        return self.objective.counts(batch)

    def __call__(self, model: Network, batch: Batch) -> Loss:
        """The summed loss.

        Raises:
            ConfigError: teacher and student differ in their words or classes, or the student's head is not trained.
            CheckpointError: the teacher's checkpoint is missing or damaged.
        """
        if not model.training:
            return self.objective(model, batch)
        teacher = _teacher(self.teacher, batch.device)
        return self.objective.distill(model, teacher, batch, Mixture(self.temperature, self.soft))

    def figures(
        self, means: Mapping[str, float], sums: Mapping[str, float], counts: Mapping[str, int], source: Source
    ) -> dict[str, float]:
        """Those of the hard loss."""
        return self.objective.figures(means, sums, counts, source)

    def fits(self, network: Network) -> None:
        """Student and teacher fit the hard loss and have the same number of outputs.

        Raises:
            ConfigError: they do not.
            CheckpointError: the teacher's checkpoint is missing or damaged.
        """
        self.objective.fits(network)
        teacher = _teacher(self.teacher, next(network.parameters()).device)
        self.objective.fits(teacher)
        check_same_outputs(n_outputs_of(teacher), n_outputs_of(network), what="outputs")


@lru_cache(maxsize=1)
def _teacher(path: Path, device: torch.device) -> Network:
    """The teacher, read once for all steps of a run."""
    model = checkpoint.load(path, device=device).model
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model
