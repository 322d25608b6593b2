"""Scores by item: what makes two runs pairable, and the refusals where they are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from eval.errors import EvalDataError, UnpairableError
from eval.stats.bootstrap import Floats
from eval.types import MAX_SCORE, MIN_SCORE

_NAMED = 3


@dataclass(frozen=True)
class ItemScores:
    """The scores of one run, each under its item's id; kept in the order of the ids, so that no order is an input.

    Raises EvalDataError for an id that comes twice or a score outside 0..100, UnpairableError for another number of
    scores than of ids.
    """

    ids: tuple[str, ...]
    """Unique."""
    scores: tuple[float | None, ...]
    """0..100; None where the judge gave no score."""

    def __post_init__(self) -> None:
        """Check, and sort by id."""
        check_ids(self.ids, n_values=len(self.scores), what="scores")
        for name, score in zip(self.ids, self.scores, strict=True):
            if score is not None and not MIN_SCORE <= score <= MAX_SCORE:
                raise EvalDataError(
                    f"expected a score in {MIN_SCORE}..{MAX_SCORE} for item {name!r}, or None without one, got {score}"
                )
        order = sorted(range(len(self.ids)), key=lambda i: self.ids[i])
        object.__setattr__(self, "ids", tuple(self.ids[i] for i in order))
        object.__setattr__(self, "scores", tuple(self.scores[i] for i in order))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], *, key: str = "score") -> Self:
        """From the rows of a Report: ``id`` and, under ``key``, a score or None.

        Raises EvalDataError for a row that lacks one of the two.
        """
        ids, scores = [], []
        for number, row in enumerate(rows):
            for name in ("id", key):
                if name not in row:
                    raise EvalDataError(f"expected {name!r} in row {number}, got {', '.join(row) or 'nothing'}")
            ids.append(str(row["id"]))
            scores.append(row[key])
        return cls(tuple(ids), tuple(scores))

    def drop_unscored(self) -> Floats:
        """The scores there are, in the order of the ids."""
        return np.array([score for score in self.scores if score is not None], dtype=np.float64)

    def fill_unscored(self, value: float) -> Floats:
        """All scores, with ``value`` where there is none."""
        return np.array([value if score is None else score for score in self.scores], dtype=np.float64)

    def has_score(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which items have a score, [items]."""
        return np.array([score is not None for score in self.scores], dtype=np.bool_)


def check_ids(ids: Sequence[str], *, n_values: int, what: str) -> None:
    """Raise UnpairableError unless there are as many values as ids, EvalDataError for an id that comes twice."""
    if len(ids) != n_values:
        raise UnpairableError(
            f"expected {len(ids)} {what}, one for each id, got {n_values}; keep every item, unscored ones as None"
        )
    repeated = sorted(name for name, count in Counter(ids).items() if count > 1)
    if repeated:
        raise EvalDataError(
            f"expected unique ids, since they pair two runs, got {_quote_some(repeated)} more than once"
        )


def check_same_items(a: Sequence[str], b: Sequence[str]) -> None:
    """Raise UnpairableError, naming the items, unless both hold the same ids."""
    only_a, only_b = sorted(set(a) - set(b)), sorted(set(b) - set(a))
    if only_a or only_b:
        found = [
            f"only the {side} has {_quote_some(names)}"
            for side, names in (("first", only_a), ("second", only_b))
            if names
        ]
        raise UnpairableError(
            f"expected the same items in both sets, got {len(a)} and {len(b)} of which {'; '.join(found)}; run both on"
            " one item set, and keep unscored items as None"
        )
    if not a:
        raise UnpairableError("expected items to pair, got two empty sets")


def require_finite(values: Sequence[float], *, name: str) -> Floats:
    """The values as an array; raises EvalDataError for one that is not a finite number."""
    data = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(data))
    if len(bad):
        raise EvalDataError(
            f"expected a finite number as {name}[{bad[0]}], got {data[bad[0]]}; keep unscored items out of the"
            " statistics and report their bounds"
        )
    return data


def pair_scores(a: Sequence[float], b: Sequence[float]) -> tuple[Floats, Floats]:
    """Two lists of scores whose positions pair them; raises UnpairableError for different lengths or none."""
    if len(a) != len(b):
        raise UnpairableError(
            f"expected as many scores in both sets, got {len(a)} and {len(b)}: where one was dropped, item i of one set"
            " is no longer item i of the other; score both again keeping every item, unscored ones with a reason"
        )
    if not len(a):
        raise UnpairableError("expected scores to pair, got two empty sets")
    return require_finite(a, name="a"), require_finite(b, name="b")


def _quote_some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
