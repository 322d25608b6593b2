"""Ledger: what happened to every document and row, by stage, split and reason.

Nothing is dropped silently. Each stage counts what came ``in`` and what was ``kept`` or ``dropped``; these must add up.
``cut`` counts kept rows that lost a part, ``tokens`` the tokens of what was kept. A row that lost all its targets is
dropped with the reason ``FULLY_MASKED``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, get_args

from gptcore.errors import DataError
from gptcore.files import write_json

Outcome = Literal["in", "kept", "dropped", "cut", "tokens"]
"""What can happen to a document or row; ``tokens`` counts tokens instead."""

FULLY_MASKED = "fully_masked"
"""The reason of a row dropped because no target was left in it."""


class LedgerRow(TypedDict):
    """One line of the ledger as a table."""

    stage: str
    split: str
    outcome: str
    reason: str
    n: int
    unit: str


class _Key(NamedTuple):
    stage: str
    split: str
    outcome: str
    reason: str
    unit: str


class Ledger:
    """Counts by (stage, split, outcome, reason, unit)."""

    def __init__(self) -> None:
        self._counts: Counter[_Key] = Counter()

    def count(
        self, stage: str, outcome: Outcome, *, reason: str = "", n: int = 1, split: str = "all", unit: str = "rows"
    ) -> None:
        """Add ``n`` to a line, for example ``ledger.count("clean", "dropped", reason="duplicate")``."""
        self._counts[_Key(stage, split, outcome, reason, unit)] += n

    def total(
        self, outcome: Outcome, *, stage: str | None = None, split: str | None = None, reason: str | None = None
    ) -> int:
        """Sum of all lines with this outcome, narrowed by what is given."""
        return sum(
            n
            for key, n in self._counts.items()
            if key.outcome == outcome
            and (stage is None or key.stage == stage)
            and (split is None or key.split == split)
            and (reason is None or key.reason == reason)
        )

    def count_fully_masked(self, *, stage: str | None = None, split: str | None = None) -> int:
        """Rows dropped because no target was left in them."""
        return self.total("dropped", stage=stage, split=split, reason=FULLY_MASKED)

    def check(self) -> None:
        """Verify that, per stage, split and unit, in = kept + dropped.

        Raises:
            DataError: something was lost or counted twice; the text gives the three figures.
        """
        groups = dict.fromkeys(
            (k.stage, k.split, k.unit) for k in self._counts if k.outcome in ("in", "kept", "dropped")
        )
        for stage, split, unit in groups:
            came, kept, dropped = (
                sum(
                    n
                    for k, n in self._counts.items()
                    if (k.stage, k.split, k.unit, k.outcome) == (stage, split, unit, outcome)
                )
                for outcome in ("in", "kept", "dropped")
            )
            if came != kept + dropped:
                raise DataError(
                    f"the ledger of stage {stage!r}, split {split!r} does not add up: {came} {unit} in, "
                    f"{kept} kept + {dropped} dropped"
                )

    def to_rows(self) -> list[LedgerRow]:
        """The lines as a table, in the order in which they were first counted."""
        return [
            LedgerRow(stage=k.stage, split=k.split, outcome=k.outcome, reason=k.reason, n=n, unit=k.unit)
            for k, n in self._counts.items()
        ]

    @staticmethod
    def from_rows(rows: Iterable[LedgerRow]) -> Ledger:
        """A ledger with these lines."""
        ledger = Ledger()
        for row in rows:
            if row["outcome"] not in get_args(Outcome):
                raise DataError(
                    f"ledger line {row!r}: expected the outcome to be one of {', '.join(get_args(Outcome))}"
                )
            ledger._counts[_Key(row["stage"], row["split"], row["outcome"], row["reason"], row["unit"])] += int(
                row["n"]
            )
        return ledger

    def merge(self, other: Ledger) -> None:
        """Add the counts of another ledger to this one."""
        self._counts.update(other._counts)

    def save(self, path: Path) -> None:
        """Check the sums and write the table as JSON.

        Raises:
            DataError: the ledger does not add up.
            OutOfDiskError: the disk is full.
        """
        self.check()
        write_json(path, self.to_rows())

    @staticmethod
    def load(path: Path) -> Ledger:
        """Read a file written by ``save``.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            return Ledger.from_rows(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(f"{path} cannot be read as a ledger ({type(error).__name__}: {error})") from error
