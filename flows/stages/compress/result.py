"""What compression hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flows.stages.result import Equivalence, StageResult
from gptcore.config import Config


@dataclass(frozen=True, kw_only=True)
class CompressedForm(Config):
    """One form of the model: a row of the table."""

    name: str
    """The method; ``fp32`` is the model as it was."""
    bytes: int
    """Size of its weights on disk."""
    memory_bytes: int
    """Size of its weights in memory."""
    n_parameters: int
    """Weights, those stored as codes included."""
    zeros: float
    """Share of the weights that are zero."""
    loss: float
    """Held-out loss, nats a token."""
    perplexity: float
    """Its exponential."""
    kl: float
    """Divergence of the original's next-token distribution from this one's: the mean over positions, nats."""
    kl_p99: float
    """The same at the 99th percentile of the positions."""
    same_top: float
    """Share of the positions at which both find the same token likeliest."""
    tokens_per_second: float
    """Median speed with one prompt."""
    tokens_per_second_spread: float
    """Fastest less slowest of the repetitions."""
    tokens_per_second_32: float
    """Median speed over 32 prompts together."""
    joules_per_token: float | None = None
    """Energy of the machine; None where it cannot be read."""
    accuracy: float | None = None
    """Of the classifier in this form; None where none was compressed."""
    increase: float = 0.0
    """Relative increase of the perplexity over the original's."""
    gate: float | None = None
    """The largest increase that is allowed; None: it is only reported."""
    passed: bool = True
    """Whether it is within its gate."""
    checkpoint: str | None = None
    """Its place in the output; None for the original."""


@dataclass(frozen=True, kw_only=True)
class CompressResult(StageResult):
    """The table of all forms."""

    stage: ClassVar[str] = "compress"
    parent: str
    """The stage whose model was compressed."""
    measured_on: str
    """What the perplexities are of."""
    variants: tuple[CompressedForm, ...]
    """The original, then a row for each method."""
    equivalence: tuple[Equivalence, ...] = ()
    """The model beside the forms in which it is used, and these forms."""
