"""Settings of the count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flows.stages.pipeline import StageRecipe
from gptcore.errors import ConfigError


@dataclass(frozen=True)
class LettersStage(StageRecipe):
    """Which letter is counted."""

    path: ClassVar[str] = "letters"
    letter: str = "e"
    """One letter."""

    def __post_init__(self) -> None:
        """Refuse what is no letter."""
        if len(self.letter) != 1:
            raise ConfigError(f"letters.letter is {self.letter!r}; expected one letter")
