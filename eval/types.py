"""The values of an evaluation: an item, what a judge said of a response to it, and the report over all of them.

An item the judge could not score stays in every table and count, with a reason: it is never dropped and never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

UnscoredReason = Literal[
    "timeout",
    "connection",
    "http_4xx",
    "http_5xx",
    "not_done",
    "length",
    "bad_json",
    "schema",
    "truncated",
    "empty",
]
"""Why an item has no score.

``timeout`` a deadline passed · ``connection`` refused, dropped or unreachable · ``http_4xx``, ``http_5xx`` the server
refused or failed · ``not_done`` the answer stopped without its end mark · ``length`` the judge ran out of tokens ·
``bad_json`` not one JSON value · ``schema`` JSON of another form, or a score that is no integer in 0..100 ·
``truncated`` the prompt was, or could not be shown not to be, cut by the server · ``empty`` nothing was written.
"""

UNSCORED_REASONS: tuple[UnscoredReason, ...] = get_args(UnscoredReason)
"""All reasons, in a fixed order."""

MIN_SCORE, MAX_SCORE = 0, 100


@dataclass(frozen=True)
class Sample:
    """One item of an evaluation set."""

    id: str
    """Unique in its set; what pairs the items of two runs."""
    instruction: str
    """The task."""
    input: str
    """The text the task is about; empty if there is none."""
    reference: str
    """The expected answer."""


@dataclass(frozen=True)
class Verdict:
    """What the judge said of one response: a score, or the reason why there is none.

    Raises ``ValueError`` unless exactly one of ``score`` and ``reason`` is given, and for a score outside 0..100.
    """

    score: int | None
    """0..100; None if unscored."""
    rationale: str
    """The judge's words before its score; empty if unscored."""
    reason: UnscoredReason | None
    """Why there is no score; None if there is one."""
    raw: str
    """The judge's last output as it came; empty if there was none."""
    seconds: float
    """Time spent on this item, all requests and waits together."""
    source: Literal["judge", "exact_match"] = "judge"
    """Who decided: the judge, or the short cut for a response equal to the reference."""
    flags: tuple[str, ...] = ()
    """What a reader should know of it: ``cached``, ``repaired``, ``neutralised``, ``cut``, ``score_first``."""
    detail: str = ""
    """What went wrong, in words; empty if scored."""

    def __post_init__(self) -> None:
        """Refuse a verdict that is both scored and unscored, neither, or out of range."""
        if (self.score is None) == (self.reason is None):
            raise ValueError(f"a verdict has a score or a reason, got score {self.score!r}, reason {self.reason!r}")
        if self.score is not None and (type(self.score) is not int or not MIN_SCORE <= self.score <= MAX_SCORE):
            raise ValueError(f"score {self.score!r} is not an integer in {MIN_SCORE}..{MAX_SCORE}")
        if self.reason is not None and self.reason not in UNSCORED_REASONS:
            raise ValueError(f"unscored reason {self.reason!r} is not one of {', '.join(UNSCORED_REASONS)}")


@dataclass(frozen=True)
class Judged:
    """An item, the response to it, and the verdict."""

    sample: Sample
    response: str
    verdict: Verdict


@dataclass(frozen=True)
class Report:
    """What an evaluation found."""

    metrics: dict[str, float]
    """By name, such as ``test/rouge_l`` or ``judge/mean``."""
    rows: list[dict[str, Any]]
    """One per item, in the order of the items; plain JSON values."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """What the numbers were made with: the item set's digest and the instrument's description; plain JSON values."""


class Judge(Protocol):
    """Scores one response."""

    def __call__(self, sample: Sample, response: str) -> Verdict:
        """A verdict on ``response``; a failure to score is a verdict with a reason, not an exception."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Everything that can change a verdict, as plain JSON values."""
        ...
