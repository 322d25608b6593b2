"""What fine-tuning for classification hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flows.stages.result import StageResult


@dataclass(frozen=True, kw_only=True)
class ClassifyResult(StageResult):
    """A classifier, measured on its test rows."""

    stage: ClassVar[str] = "finetune-classifier"
    checkpoint: str
    """Its place in the output."""
    labels: tuple[str, ...]
    """Its classes."""
    confusion: tuple[tuple[int, ...], ...]
    """Test rows: the true class by row, the predicted one by column."""
