"""What the count hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flows.stages.result import StageResult


@dataclass(frozen=True, kw_only=True)
class LettersResult(StageResult):
    """The count of a letter."""

    stage: ClassVar[str] = "count-letters"
    letter: str
    """Which one."""
