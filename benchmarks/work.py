"""Work: one thing to be done by several implementations, with what must be reached; and the arithmetic of a sitting."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.measured import Measured
from benchmarks.options import Options

Rounds = Mapping[str, Sequence[Measured]]
"""Implementation -> what its processes found, in the order of the rounds."""


@dataclass(frozen=True)
class Implementation:
    """One way to do the work."""

    name: str
    """As in ``--implementations`` and in the tables."""
    what: str
    """What exactly runs, in a line for the report."""
    measure: Callable[[Options, Path], Measured]
    """Called in the measured process with the options and the folder of prepared data."""
    needs: tuple[str, ...] = ()
    """Modules without which it cannot be measured."""
    in_litgpt: bool = False
    """Whether it runs in litgpt's environment."""


@dataclass(frozen=True)
class Target:
    """What must be reached: a ratio to a peer, or without a peer the figure itself."""

    quantity: Literal["figure", "memory"]
    """The work's figure, or the peak memory."""
    bound: float
    """The least allowed figure, the most allowed memory."""
    peer: str | None = None
    """Which implementation it is compared with."""
    ours: str = "ours"
    """Which implementation must reach it."""
    at_most: bool | None = None
    """Whether the bound is an upper one; None takes lower for a figure and upper for memory."""

    @property
    def is_upper(self) -> bool:
        """Whether the value must not be above the bound."""
        return self.quantity == "memory" if self.at_most is None else self.at_most

    def text(self, *, unit: str) -> str:
        """The target in words."""
        what = unit if self.quantity == "figure" else "peak RSS"
        return f"{self.ours}: {what} {'≤' if self.is_upper else '≥'} {self.bound:g}" + (
            f" × {self.peer}" if self.peer else ""
        )


@dataclass(frozen=True)
class Work:
    """One thing to be done."""

    name: str
    """File name of its report, after the date."""
    title: str
    """Headline of its report."""
    unit: str
    """What the figure counts, such as ``tokens/s``."""
    figure: Callable[[Measured], float]
    """The figure of one process."""
    implementations: tuple[Implementation, ...]
    """In the order of their turns."""
    prepare: Callable[[Options, Path], None]
    """Fills a folder with what all of them read; runs in a process of its own."""
    targets: tuple[Target, ...] = ()
    """What must be reached."""
    notes: tuple[str, ...] = ()
    """What is the same for all, in lines for the report."""
    extra: Callable[[Rounds, Path | None], str] | None = None
    """More Markdown for the report, from all rounds; the path is that of the report without its suffix, if one is
    written, for plots beside it."""


class Spread(NamedTuple):
    """A median and its range."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 1) -> str:
        """Such as ``93.0 (74.0–97.0)``."""
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}–{self.high:,.{digits}f})"


class Verdict(NamedTuple):
    """Whether a target was met."""

    target: Target
    ratio: Spread | None
    """Over the rounds; its middle is the ratio of the medians. None if one side was not measured."""
    met: bool | None


def spread(values: Sequence[float]) -> Spread:
    """Median and range of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ratio of the medians, with the range of the ratios round by round."""
    each = [a / b for a, b in zip(ours, theirs, strict=False)]
    return Spread(statistics.median(ours) / statistics.median(theirs), min(each), max(each))


def judge(work: Work, rounds: Rounds) -> list[Verdict]:
    """Every target of the work against what was measured."""

    def values(name: str, quantity: str) -> list[float]:
        found = rounds.get(name, ())
        return [work.figure(m) if quantity == "figure" else m.peak_rss_mb for m in found]

    verdicts = []
    for target in work.targets:
        ours = values(target.ours, target.quantity)
        theirs = values(target.peer, target.quantity) if target.peer else None
        if not ours or theirs == []:
            verdicts.append(Verdict(target, None, None))
            continue
        found = spread(ours) if theirs is None else ratio(ours, theirs)
        met = found.median <= target.bound if target.is_upper else found.median >= target.bound
        verdicts.append(Verdict(target, found, met))
    return verdicts
