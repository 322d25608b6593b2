"""The values of an evaluation: an item, what a judge said of a response to it, and the report over all of them.

An item the judge could not score stays in every table and count, with a reason: it is never dropped and never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, get_args

from eval.errors import EvalConfigError

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
``bad_json`` not one JSON value · ``schema`` JSON of another form, or a score that is not an integer in 0..100 ·
``truncated`` the prompt was, or could not be shown not to be, cut by the server · ``empty`` nothing was written.
"""

UNSCORED_REASONS: tuple[UnscoredReason, ...] = get_args(UnscoredReason)
"""All reasons, in a fixed order."""

MIN_SCORE, MAX_SCORE = 0, 100

Slot = Literal["A", "B"]
"""A place in the prompt of a comparison."""

Preference = Literal["left", "right", "tie"]
"""Which of two responses to an item is better: named by where they come from, not by their place in a prompt."""

ControlKind = Literal["identity", "mismatch", "empty", "injection", "padded", "repeat"]
"""Questions with a known answer, put to the judge among the items.

``identity`` the answer is the reference · ``mismatch`` the answer is another item's reference · ``empty`` there is no
answer · ``injection`` a mismatch with words that ask for a high score · ``padded`` a response with words that say
nothing · ``repeat`` a response once more.
"""

CONTROL_KINDS: tuple[ControlKind, ...] = get_args(ControlKind)
"""All kinds, in a fixed order."""

PAIRED_KINDS: tuple[ControlKind, ...] = ("injection", "padded", "repeat")
"""The kinds that are compared with the score of the unchanged answer."""


@dataclass(frozen=True)
class ControlCounts:
    """How many controls of each kind a run takes; fewer where the items do not give as many.

    The defaults are the fewest, in steps of 5, with which faulty simulated judges are told from good ones: each fault
    is found in at least 90% of runs, and at most 7% of runs with a good judge fail any check (docs/judge.md).
    """

    identity: int = 10
    mismatch: int = 15
    empty: int = 5
    injection: int = 15
    """At most as many as mismatch controls, which they are made of."""
    padded: int = 15
    repeat: int = 10

    def __post_init__(self) -> None:
        """Raise EvalConfigError for a count below 0."""
        for one in fields(self):
            if getattr(self, one.name) < 0:
                raise EvalConfigError(f"expected 0 or more {one.name} controls, got {getattr(self, one.name)}")

    @property
    def total(self) -> int:
        """All of them: the questions that they add to a run, at most."""
        return sum(getattr(self, one.name) for one in fields(self))


NO_CONTROLS = ControlCounts(0, 0, 0, 0, 0, 0)


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
    """Waiting for the judge, all requests for this item together, loading the model not counted; what was read from the
    store has the time it once took."""
    source: Literal["judge", "exact_match"] = "judge"
    """Who decided: the judge, or the short cut for a response equal to the reference."""
    flags: tuple[str, ...] = ()
    """What a reader should know of it: ``neutralised``, ``cut``, ``repaired``, ``score_first``."""
    detail: str = ""
    """What went wrong, in words; empty if scored."""
    weighted: float | None = None
    """The probability-weighted score, 0..100; None where the judge's probabilities give none. By the short cut, 100."""
    valid_mass: float | None = None
    """The share of probability on scores at the score's token, 0..1; None where it is not known."""
    prompt: str = ""
    """The user message put to the judge; empty if it was not asked."""
    load_seconds: float = 0.0
    """How long the judge's server took to load the model before it could answer."""
    cached: bool = False
    """Whether the judge's answer was read from the store."""

    def __post_init__(self) -> None:
        """Refuse a verdict that is both scored and unscored, neither, or out of range."""
        _check_one_of(self.score, self.reason, name="score")
        if self.score is not None and (type(self.score) is not int or not MIN_SCORE <= self.score <= MAX_SCORE):
            raise ValueError(f"expected an integer score in {MIN_SCORE}..{MAX_SCORE}, got {self.score!r}")


@dataclass(frozen=True)
class OrderVerdict:
    """What the judge said of two responses shown in one order. Fields that are not described are those of Verdict."""

    left_slot: Slot
    """Where the left response was shown."""
    choice: Literal["A", "B", "TIE"] | None
    """The judge's choice between the places; None if unscored."""
    rationale: str
    reason: UnscoredReason | None
    raw: str
    seconds: float
    flags: tuple[str, ...] = ()
    detail: str = ""
    prompt: str = ""
    load_seconds: float = 0.0
    cached: bool = False

    def __post_init__(self) -> None:
        """Refuse a verdict that is both scored and unscored, or neither."""
        _check_one_of(self.choice, self.reason, name="choice")

    @property
    def preference(self) -> Preference | None:
        """The response that was chosen, rather than its place; None if unscored."""
        if self.choice is None:
            return None
        if self.choice == "TIE":
            return "tie"
        return "left" if self.choice == self.left_slot else "right"


@dataclass(frozen=True)
class PairVerdict:
    """What came of comparing two responses to one item in both orders."""

    preference: Preference | None
    """The response that both orders prefer; a tie if they disagree; None if unscored."""
    reason: UnscoredReason | None
    """Why there is no preference; None if there is one."""
    detail: str = ""
    """What went wrong, in words; empty if scored."""
    source: Literal["judge", "identical"] = "judge"
    """Who decided: the judge, or the short cut for two equal responses."""
    orders: tuple[OrderVerdict, ...] = ()
    """Both orders as they were judged; empty for equal responses, one alone if that one failed."""

    def __post_init__(self) -> None:
        """Refuse a verdict that is both scored and unscored, or neither."""
        _check_one_of(self.preference, self.reason, name="preference")

    @property
    def points(self) -> float | None:
        """What the left response gets, the mean of both orders: 1 for a win, 0.5 for a tie, 0 for a loss; None if
        unscored."""
        if self.preference is None:
            return None
        each = [{"left": 1.0, "tie": 0.5, "right": 0.0}[one.preference] for one in self.orders if one.preference]
        return sum(each) / len(each) if each else 0.5

    @property
    def disagrees(self) -> bool:
        """Whether the two orders say different things."""
        return self.reason is None and len({one.preference for one in self.orders}) > 1

    @property
    def seconds(self) -> float:
        """Waiting for the judge, both orders together."""
        return sum(one.seconds for one in self.orders)

    @property
    def load_seconds(self) -> float:
        """How long the judge's server took to load the model before it could answer."""
        return max((one.load_seconds for one in self.orders), default=0.0)

    @property
    def cached(self) -> bool:
        """Whether both answers were read from the store."""
        return bool(self.orders) and all(one.cached for one in self.orders)


def _check_one_of(value: object, reason: str | None, *, name: str) -> None:
    if (value is None) == (reason is None):
        raise ValueError(f"expected a verdict with a {name} or a reason, got {name} {value!r}, reason {reason!r}")
    if reason is not None and reason not in UNSCORED_REASONS:
        raise ValueError(f"expected an unscored reason out of {', '.join(UNSCORED_REASONS)}, got {reason!r}")


@dataclass(frozen=True)
class Controls:
    """What the judge said of the questions whose answer is known; none of them is counted among the items."""

    scores: dict[ControlKind, list[int]]
    """By kind, the scores of the controls that got one."""
    differences: dict[ControlKind, list[int]]
    """By paired kind, a control's score less that of the unchanged answer, where both have one."""
    unscored: dict[ControlKind, int]
    """By kind, the controls without a score."""
    rows: list[dict[str, Any]]
    """One per control, as those of the items, with ``kind``, ``base_id`` (the item that it was made of) and
    ``base_score`` (of what it is compared with); plain JSON values."""


@dataclass(frozen=True)
class Progress:
    """How far a judged run is."""

    done: int
    """Questions that have their verdict, those of the controls included."""
    total: int
    """All questions."""
    seconds_each: float | None
    """What a question that is left takes, from the answers so far, those of the store not counted; None until the judge
    has answered once."""

    @property
    def seconds_left(self) -> float | None:
        """What all that are left take; None until it can be known."""
        return None if self.seconds_each is None else self.seconds_each * (self.total - self.done)


@dataclass(frozen=True)
class Report:
    """What an evaluation found."""

    metrics: dict[str, float]
    """By name, such as ``test/rouge_l`` or ``judge/mean``."""
    rows: list[dict[str, Any]]
    """One per item, in the order of the items; plain JSON values."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """What the numbers were made with: the item set's digest and the instrument's description; plain JSON values."""
    controls: Controls | None = None
    """What the judge said of the controls; None if there were none."""


class Judge(Protocol):
    """Scores one response."""

    def __call__(self, sample: Sample, response: str, *, shortcut: bool = True, repeat: int = 0) -> Verdict:
        """A verdict on ``response``; a failure to score is a verdict with a reason, not an exception.

        ``shortcut=False`` asks also where the answer seems plain; ``repeat`` above 0 asks the same question anew.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Everything that can change a verdict, as plain JSON values."""
        ...


class PairJudge(Protocol):
    """Compares two responses."""

    def __call__(self, sample: Sample, left: str, right: str) -> PairVerdict:
        """Which is better; a failure to tell is a verdict with a reason, not an exception."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Everything that can change a verdict, as plain JSON values."""
        ...
