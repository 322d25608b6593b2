"""Distillation: a student learns from a teacher's probabilities beside the labels.

"Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531.

Shapes: B rows, T positions, C width, V vocabulary, N target positions, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from gptcore import checkpoint
from gptcore.batch import Batch, Loss
from gptcore.errors import ConfigError
from gptcore.models.network import Network, WordNetwork, as_words
from gptcore.nn.distill_loss import Mixture, distilled, linear_distillation
from gptcore.objectives.base import Objective
from gptcore.objectives.classify import Classify, class_logits
from gptcore.objectives.next_token import NextToken, target_rows


@dataclass(frozen=True)
class Distill(Objective):
    """(1 - soft) * the hard loss + soft * T^2 * KL(teacher || student) at temperature T, while training.

    In evaluation it is the hard loss alone, so that held-out figures compare with those of any other training.
    """

    teacher: Path
    """Checkpoint of the teacher, with the student's vocabulary or classes."""
    objective: Objective = field(default_factory=NextToken)
    """The hard loss: ``NextToken`` or ``Classify``."""
    temperature: float = 2.0
    """T: both models' logits are divided by it."""
    soft: float = 0.5
    """Share of the teacher; the rest is the labels'."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}; it must be above 0")
        if not 0.0 <= self.soft <= 1.0:
            raise ConfigError(f"soft is {self.soft}; it must be from 0 to 1")
        if not isinstance(self.objective, NextToken | Classify):
            raise ConfigError(f"{type(self.objective).__name__} cannot be distilled; NextToken and Classify can")

    def count(self, batch: Batch) -> int:
        """As the hard loss counts."""
        return self.objective.count(batch)

    def __call__(self, model: Network, batch: Batch) -> Loss:
        """The summed loss.

        Raises:
            ConfigError: teacher and student differ in their words or classes, or the student's head is not trained.
            CheckpointError: the teacher's checkpoint is missing or damaged.
        """
        if not model.training:
            return self.objective(model, batch)
        teacher = _teacher(self.teacher, batch.device)
        mixture = Mixture(self.temperature, self.soft)
        if isinstance(self.objective, Classify):
            return self._classes(model, teacher, batch, mixture)
        student, teacher = (as_words(each, purpose="distillation of words") for each in (model, teacher))
        return self._words(student, teacher, batch, mixture)

    def _words(self, model: WordNetwork, teacher: WordNetwork, batch: Batch, mixture: Mixture) -> Loss:
        tokens, targets = batch.inputs["tokens"], batch.targets["labels"]
        _same(teacher.config.vocab_size, model.config.vocab_size, what="words")
        features, head = model.features_and_head(tokens, lengths=batch.lengths, packed=batch.packed)
        if head is None:
            raise ConfigError("the student's head is quantized or adapted; only a plain head can be distilled into")
        hidden, labels = target_rows(features, targets)
        with torch.no_grad():
            theirs, _ = target_rows(teacher.features(tokens, lengths=batch.lengths, packed=batch.packed), targets)

        def told(rows: slice) -> Tensor:
            with torch.no_grad():
                logits: Tensor = teacher.head(theirs[rows])
            return logits

        total = linear_distillation(hidden, head, labels, teacher=told, mixture=mixture)
        return Loss(total=total, count=len(labels), sums={})

    def _classes(self, model: Network, teacher: Network, batch: Batch, mixture: Mixture) -> Loss:
        logits, classes = class_logits(model, batch), batch.targets["classes"]
        with torch.no_grad():
            theirs = class_logits(teacher, batch)
        _same(theirs.shape[1], logits.shape[1], what="classes")
        with torch.no_grad():
            loss, slope = distilled(logits, theirs, classes, mixture)
        # the value of the loss with the gradient that belongs to it
        total = (logits * slope).sum()
        total = total + (loss - total).detach()
        correct = int((logits.argmax(dim=1) == classes).sum())
        return Loss(total=total, count=len(classes), sums={"correct": float(correct)})


def _same(theirs: int, ours: int, *, what: str) -> None:
    if theirs != ours:
        raise ConfigError(f"the teacher has {theirs} {what}, the student {ours}; they must be the same ones")


@lru_cache(maxsize=1)
def _teacher(path: Path, device: torch.device) -> Network:
    """The teacher, read once for all steps of a run."""
    model = checkpoint.load(path, device=device).model
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model
