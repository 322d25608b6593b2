"""Two models side by side, each pair of answers judged in both orders: who wins, and does the place decide?

The unit is the item: its weight is the mean of its two games, so that a judge who always takes the first answer gives
one half. Items whose games disagree are ties and are counted; leaving them out would inflate the win rate (Zheng et al.
2023, https://arxiv.org/abs/2306.05685). One that is won in one order and tied in the other is such a tie, too, but
weighs 0.75: at 0.5 a judge that is never quite sure would pull all rates towards one half. Swapping removes position
bias from the mean, but what the place decided it replaces by one half, which pulls the rate towards one half. Where the
first-slot rate says that there was much of that, read ``place_free``: the mean of the two orders' rates on the logit
scale, where a bonus for the first place cancels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from eval.errors import EvalDataError
from eval.stats.bootstrap import CONFIDENCE, N_RESAMPLES, Floats, Interval, bootstrap_intervals
from eval.stats.items import check_ids
from eval.stats.permutation import compute_sign_flip_p
from eval.stats.power import compute_minimum_detectable
from eval.stats.proportion import compute_exact_interval, compute_unanimous_bounds
from eval.stats.two_runs import VerdictWord, choose_verdict

WIN, TIE, LOSS = 1.0, 0.5, 0.0


@dataclass(frozen=True)
class SwappedGames:
    """Model A against model B on each item, in both orders; kept in the order of the ids.

    Raises EvalDataError for an id that comes twice or a result that is none of 1, 0.5, 0 and None, UnpairableError for
    another number of results than of ids.
    """

    ids: tuple[str, ...]
    """Unique."""
    a_first: tuple[float | None, ...]
    """A's result where A's answer stood first: 1 won, 0.5 tied, 0 lost, None unscored."""
    a_second: tuple[float | None, ...]
    """A's result, again A's, where its answer stood second."""

    def __post_init__(self) -> None:
        """Check, and sort by id."""
        for games in (self.a_first, self.a_second):
            check_ids(self.ids, n_values=len(games), what="games of one order")
            wrong = [(name, game) for name, game in zip(self.ids, games, strict=True) if game not in _RESULTS]
            if wrong:
                raise EvalDataError(
                    f"expected a result of 1, 0.5, 0 or None on item {wrong[0][0]!r}, got {wrong[0][1]!r}"
                )
        order = sorted(range(len(self.ids)), key=lambda i: self.ids[i])
        for field in ("ids", "a_first", "a_second"):
            object.__setattr__(self, field, tuple(getattr(self, field)[i] for i in order))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Self:
        """From the rows of ``eval.run.compare_responses``: A is the left side; equal responses tie in both orders."""
        ids, results = list[str](), list[tuple[float | None, float | None]]()
        for row in rows:
            by_slot = {one["left_slot"]: _POINTS.get(one["preference"]) for one in row["orders"]}
            identical = row["source"] == "identical"
            ids.append(str(row["id"]))
            results.append((TIE, TIE) if identical else (by_slot.get("A"), by_slot.get("B")))
        return cls(tuple(ids), tuple(first for first, _ in results), tuple(second for _, second in results))

    def drop_unscored(self) -> Floats:
        """A's results of the items with two results, [items, 2]."""
        games = [game for game in zip(self.a_first, self.a_second, strict=True) if None not in game]
        return np.array(games, dtype=np.float64).reshape(-1, 2)

    def is_scored(self) -> list[bool]:
        """Which items have two results."""
        return [None not in game for game in zip(self.a_first, self.a_second, strict=True)]


_RESULTS = (WIN, TIE, LOSS, None)
_POINTS = {"left": WIN, "tie": TIE, "right": LOSS}


@dataclass(frozen=True)
class WinRate:
    """How often A beats B, and how far the judge let the place of an answer decide."""

    verdict: VerdictWord
    """Of A: better or worse only if ``p_value`` is at most 1 - confidence and the unscored items cannot turn it."""
    rate: Interval
    """Mean weight of the items with both games: 1 all won, 0.5 even."""
    place_free: Interval
    """The rate with the effect of the place taken out rather than averaged: close to ``rate`` for a judge that hardly
    minds the place, further from one half for one that does."""
    p_value: float
    """Two-sided sign-flip permutation test of a rate of one half."""
    minimum_detectable: float
    """How far from one half a rate must be for this many items to show it with 80% power."""
    wins: int
    """Items won in both orders."""
    losses: int
    """Items lost in both orders."""
    ties: int
    """Items tied in both orders, and the disagreements."""
    disagreements: int
    """Items whose two games have different results; all of them are among the ties."""
    consistency: Interval
    """Share of items with the same result in both orders; exact bounds."""
    first_slot: Interval
    """Share of games that the answer standing first won, a tie counting one half; 0.5 without position bias."""
    first_of_disagreements: Interval
    """Share of the disagreements that favour the first place; exact bounds. It is far from 0.5 even where few items
    leave their place anything to decide."""
    slot_p: float
    """Exact binomial test of ``first_of_disagreements`` against one half; 1 if there are none."""
    n_unscored: int
    """Items with a game that has no result; out of the rate, in the bounds."""
    bound_low: float
    """The rate over all items if A lost every game without a result."""
    bound_high: float
    """The rate over all items if A won every game without a result."""


def measure_win_rate(
    games: SwappedGames, *, seed: int, n_resamples: int = N_RESAMPLES, confidence: float = CONFIDENCE
) -> WinRate:
    """Win rate, consistency and first-slot rate.

    Raises EvalDataError if no item has a result in both orders, EvalConfigError for impossible settings.
    """
    from scipy.stats import binomtest

    scored = games.drop_unscored()
    if not len(scored):
        raise EvalDataError("no item has a result in both orders; see the reasons for which the judge gave none")
    # In the second order B stands first, so its result is one less A's.
    weights, in_first_slot = scored.mean(axis=1), (scored[:, 0] + 1 - scored[:, 1]) / 2
    rate, first_slot, place_free = _estimate_rates(
        scored, weights, in_first_slot, seed=seed, n_resamples=n_resamples, confidence=confidence
    )
    p_value = compute_sign_flip_p(weights - TIE, seed=seed, n_resamples=n_resamples)
    low, high = _bound(games, LOSS), _bound(games, WIN)
    # Without position bias an item's two results could as well have come in the other order.
    for_first, for_second = int((in_first_slot > TIE).sum()), int((in_first_slot < TIE).sum())
    n, n_differ = len(scored), for_first + for_second
    return WinRate(
        verdict=choose_verdict(rate.mean - TIE, p_value=p_value, level=1 - confidence, bounds=(low - TIE, high - TIE)),
        rate=rate,
        place_free=place_free,
        p_value=p_value,
        minimum_detectable=compute_minimum_detectable(weights, level=1 - confidence),
        wins=int((weights == WIN).sum()),
        losses=int((weights == LOSS).sum()),
        ties=int(((weights != WIN) & (weights != LOSS)).sum()),
        disagreements=n_differ,
        consistency=compute_exact_interval(n - n_differ, n, confidence=confidence),
        first_slot=first_slot,
        first_of_disagreements=compute_exact_interval(for_first, n_differ, confidence=confidence),
        slot_p=float(binomtest(for_first, n_differ, TIE).pvalue) if n_differ else 1.0,
        n_unscored=len(games.ids) - n,
        bound_low=low,
        bound_high=high,
    )


def _estimate_rates(
    scored: Floats, weights: Floats, in_first_slot: Floats, *, seed: int, n_resamples: int, confidence: float
) -> list[Interval]:
    """The win rate, the first-slot rate and the place-free rate."""
    n = len(scored)

    def statistic(counts: Floats) -> Floats:
        first, second = (np.clip(counts @ order / n, 0.5 / n, 1 - 0.5 / n) for order in scored.T)
        odds = np.sqrt(first / (1 - first) * second / (1 - second))
        return np.stack([counts @ weights / n, counts @ in_first_slot / n, odds / (1 + odds)], axis=1)

    found = bootstrap_intervals(statistic, n_items=n, seed=seed, n_resamples=n_resamples, confidence=confidence)
    is_unanimous = (not np.ptp(weights), not np.ptp(in_first_slot), not np.ptp(scored, axis=0).any())
    for k, same in enumerate(is_unanimous):
        if same and n > 1:
            low, high = compute_unanimous_bounds(found[k].mean, n, lowest=LOSS, highest=WIN, confidence=confidence)
            found[k] = Interval(found[k].mean, low, high, n)
    return found


def _bound(games: SwappedGames, value: float) -> float:
    filled = [[value if game is None else game for game in order] for order in (games.a_first, games.a_second)]
    return float(np.mean(filled))
