"""What fine-tuning for instructions hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flows.stages.result import StageResult


@dataclass(frozen=True, kw_only=True)
class InstructResult(StageResult):
    """A model that answers, and its answers to the held-out instructions."""

    stage: ClassVar[str] = "finetune-instruct"
    checkpoint: str
    """Its place in the output."""
    responses: str
    """Place of the rows with ``base``, the base model's answer, and ``response``."""
