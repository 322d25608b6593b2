"""What a stage hands on: a frozen value of its own kind, written into the manifest of its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gptcore.config import Config


@dataclass(frozen=True, kw_only=True)
class StageResult(Config):
    """Base of what stages hand on."""

    stage: ClassVar[str]
    """Name of the stage."""
    metrics: dict[str, float]
    """Figures by name, for the tracker, the page and the next stages."""


@dataclass(frozen=True, kw_only=True)
class Equivalence(Config):
    """A form of a model beside the model itself."""

    form: str
    """What was done with it."""
    must_equal: bool
    """Whether it must be the same but for the order of sums."""
    equal: bool | None = None
    """Whether no logit differs by more than 0.0001 of the largest; None where the form was not made."""
    largest_difference: float | None = None
    """Of any logit."""
    scale: float | None = None
    """The largest logit."""
    same_top: float | None = None
    """Share of the positions at which both find the same token likeliest."""
    kl_divergence: float | None = None
    """Of the form's next-token distribution from the model's, nats."""
    n: int = 0
    """Positions that were compared."""
    reason: str = ""
    """Why the form was not made."""


def first_metric(result: StageResult | None, *names: str) -> tuple[str, float] | None:
    """The first of these figures that there is."""
    metrics = result.metrics if result else {}
    return next(((name, metrics[name]) for name in names if name in metrics), None)
