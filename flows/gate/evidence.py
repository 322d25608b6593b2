"""What is known of one model under one evaluation key: a value for each item, and what it costs to run.

It survives JSON, so that a decision can be taken again from the files alone.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from eval.digest import digest
from flows.gate.policy import Measure
from gptcore.errors import DataError
from gptcore.files import write_json


@dataclass(frozen=True)
class Variant:
    """A compressed form of the model."""

    name: str
    n_bytes: int
    """Of its weights."""
    share: float
    """Of the size of the fp32 weights."""
    tokens_per_second: float
    increase: float
    """Relative rise of the perplexity."""


@dataclass(frozen=True)
class Evidence:
    """Measurements of one model."""

    model: str
    """Whose: the key of its chain."""
    instrument: dict[str, Any]
    """Everything that can change a value: the items, the decoding, the judge with its prompts. Plain JSON values."""
    values: dict[Measure, dict[str, float | None]]
    """Measure -> item -> value; None where the judge gave none. A measure that the model cannot be put to is absent."""
    judge_invalid: tuple[str, ...] = ()
    """Why the judge's scores are not to be believed; empty if they are, and where there are none."""
    variants: tuple[Variant, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    """How long measuring took."""

    @property
    def key(self) -> str:
        """The evaluation key: models can be compared if theirs are equal."""
        return digest(self.instrument)[:16]

    @property
    def judged(self) -> bool:
        """Whether a judge was asked."""
        return "judge" in self.values

    def mean(self, measure: Measure) -> float:
        """Mean over the items that have a value; NaN if none has."""
        known = [value for value in self.values.get(measure, {}).values() if value is not None]
        return math.fsum(known) / len(known) if known else math.nan

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @staticmethod
    def load(path: Path) -> Evidence:
        """Read what ``save`` wrote.

        Raises:
            DataError: the file is missing or damaged.
        """
        try:
            return TypeAdapter(Evidence).validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"{path} holds no evidence of a gate ({type(error).__name__}: {error})") from error
