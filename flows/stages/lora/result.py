"""What adaptation hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flows.stages.result import Equivalence, StageResult
from gptcore.config import Config


@dataclass(frozen=True, kw_only=True)
class Adapted(Config):
    """The base model, adapted for one task."""

    checkpoint: str
    """Its place in the output."""
    adapter: str
    """Place of the trained tensors alone."""
    trained_share: float
    """Share of the parameters that is trained."""
    metrics: dict[str, float]
    """Figures of the training."""
    labels: tuple[str, ...] = ()
    """Its classes, if it is a classifier."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Test rows: the true class by row, the predicted one by column."""


@dataclass(frozen=True, kw_only=True)
class LoraResult(StageResult):
    """The base model, adapted for each task that has data."""

    stage: ClassVar[str] = "lora"
    tasks: dict[str, Adapted]
    """Part of the data -> what came of it."""
    responses: str | None = None
    """Place of the rows with ``response``; None without instructions."""
    equivalence: tuple[Equivalence, ...] = ()
    """The adapted model beside its merged form."""
