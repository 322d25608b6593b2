"""What data preparation hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from flows.sources.parts import find_part
from flows.stages.result import StageResult
from gptcore.config import Config, Json
from gptcore.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PartFacts(Config):
    """What there is of one part of the data."""

    rows: dict[str, int]
    """Split -> its rows."""
    train_chars: int
    """Characters of the training rows."""
    leaks: int = 0
    """Rows of val and test that stood in train as well, and were taken out."""
    labels: tuple[str, ...] = ()
    """The classes of the training rows, sorted; empty where rows have none."""


@dataclass(frozen=True, kw_only=True)
class PrepareResult(StageResult):
    """The prepared data: ``tokenizer/``, ``corpus/`` and a folder for each part."""

    stage: ClassVar[str] = "prepare-data"
    tokenizer: str
    """Name of the tokenizer."""
    tokenizer_digest: str
    """Its digest."""
    vocab_size: int
    """Its tokens."""
    tokens: dict[str, int]
    """Split -> tokens of the corpus."""
    parts: dict[str, PartFacts]
    """Part -> what there is of it."""

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        """Also from the form of earlier outputs, which name the parts in a list and have each beside it."""
        if isinstance(data.get("parts"), list):
            names = data["parts"]
            rest = {key: value for key, value in data.items() if key not in names}
            data = {**rest, "parts": {name: data[name] for name in names}}
        return super().from_dict(data)

    def part(self, name: str) -> PartFacts:
        """The facts about a part.

        Raises:
            ConfigError: the data has no such rows.
        """
        if name not in self.parts:
            has = ", ".join(self.parts) or "a corpus alone"
            raise ConfigError(f"the data has no rows for {name} (it has {has}); give some by {find_part(name).option}")
        return self.parts[name]
