"""What pretraining hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flows.stages.result import StageResult


@dataclass(frozen=True, kw_only=True)
class PretrainResult(StageResult):
    """A base model."""

    stage: ClassVar[str] = "pretrain"
    checkpoint: str
    """Its place in the output."""
    model: dict[str, Any]
    """The sizes of the model as JSON, and ``n_parameters``."""
    samples: tuple[dict[str, Any], ...] = ()
    """Lines ``step, prompt, text``: what the model made of the sample prompts at each evaluation."""
