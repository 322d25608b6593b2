"""What the evaluation hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flows.stages.result import StageResult


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(StageResult):
    """Scores of the held-out responses."""

    stage: ClassVar[str] = "evaluate"
    judge: dict[str, Any]
    """``state`` and ``reason``; where a judge was asked, also what ``flows.stages.judge.items.facts`` gives."""
