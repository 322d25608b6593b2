"""Several models' responses to the same items, compared pair by pair: who wins, and how strong is each.

Win rates are item by item and in both orders (``eval.stats.pairwise``); strengths of more than two models are
Bradley-Terry's (``eval.stats.bradley_terry``). The verdicts of all pairs hold together (Holm).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.asking import OnProgress, RoundsProgress
from eval.errors import EvalConfigError, EvalDataError
from eval.judge.controls import draw_known_pairs
from eval.run import SEED, compare_responses
from eval.stats import (
    BradleyTerry,
    Game,
    LengthControlled,
    SwappedGames,
    Validity,
    VerdictWord,
    WinRate,
    adjust_holm,
    fit_bradley_terry,
    fit_length_controlled_win_rate,
    measure_win_rate,
)
from eval.stats.two_runs import choose_verdict
from eval.trust import KNOWN_PAIRS, validate_pairs
from eval.types import PairJudge, Report, Sample

LEVEL = 0.05


@dataclass(frozen=True)
class Match:
    """A candidate's responses against a baseline's."""

    candidate: str
    baseline: str
    report: Report
    """The candidate is the left side."""
    rate: WinRate | None
    """The candidate's; None if no item has a result in both orders."""
    p_adjusted: float
    """``rate.p_value`` corrected for the number of matches; 1 without a rate."""
    verdict: VerdictWord
    """Of the candidate, by ``p_adjusted``."""
    at_equal_length: LengthControlled | None
    """The win rate where both responses are equally long; None without a rate."""


@dataclass(frozen=True)
class Tournament:
    """All matches between some models."""

    matches: tuple[Match, ...]
    """Every pair of models, the one that was named later as the candidate."""
    validity: Validity
    """What the known pairs and the pairs without a result say of the judge."""
    strengths: BradleyTerry | None
    """None for two models, and where they have no finite value."""
    no_strengths: str
    """Why there are none; empty if there are."""

    @property
    def reports(self) -> list[Report]:
        """Of all matches."""
        return [match.report for match in self.matches]


def count_comparisons(samples: Sequence[Sample], n_models: int) -> int:
    """Verdicts that ``play`` takes, each of which puts at most two questions."""
    n_matches = n_models * (n_models - 1) // 2
    return n_matches * len(samples) + len(draw_known_pairs(samples, n=KNOWN_PAIRS, seed=SEED))


def play(
    samples: Sequence[Sample],
    responses: Mapping[str, Sequence[str]],
    *,
    judge: PairJudge,
    on_progress: OnProgress | None = None,
    concurrency: int = 1,
    seed: int = SEED,
) -> Tournament:
    """Compare every pair of models, in both orders; among the first pair's items go pairs whose winner is known.

    Args:
        samples: the items; N of them.
        responses: by model, N texts; the first named is the baseline of all others.
        judge: compares two responses.
        on_progress: called after each item of each match, in this thread.
        concurrency: items compared at once.
        seed: of the resamples.

    Raises:
        EvalConfigError: fewer than two models.
        EvalError: what ``eval.run.compare_responses`` raises.
    """
    if len(responses) < 2:
        raise EvalConfigError(f"expected at least two models to compare, got {len(responses)}")
    progress = RoundsProgress(on_progress, total=count_comparisons(samples, len(responses)))
    reports: dict[tuple[str, str], Report] = {}
    for baseline, candidate in itertools.combinations(responses, 2):
        reports[candidate, baseline] = compare_responses(
            samples,
            responses[candidate],
            responses[baseline],
            judge=judge,
            n_known=0 if reports else KNOWN_PAIRS,
            on_progress=progress,
            concurrency=concurrency,
        )
    return weigh(reports, seed=seed)


def weigh(reports: Mapping[tuple[str, str], Report], *, seed: int) -> Tournament:
    """Win rates, verdicts and strengths from what was judged, by (candidate, baseline)."""
    games = {sides: SwappedGames.from_rows(report.rows) for sides, report in reports.items()}
    rates = {
        sides: measure_win_rate(each, seed=seed) if any(each.is_scored()) else None for sides, each in games.items()
    }
    adjusted = adjust_holm([1.0 if rate is None else rate.p_value for rate in rates.values()])
    matches = tuple(
        Match(
            *sides,
            report=reports[sides],
            rate=rate,
            p_adjusted=p_value,
            verdict=_choose_verdict(rate, p_value),
            at_equal_length=None if rate is None else _control_length(reports[sides], games[sides], seed=seed),
        )
        for (sides, rate), p_value in zip(rates.items(), adjusted, strict=True)
    )
    strengths, reason = _fit_strengths(games, seed=seed)
    return Tournament(matches, validate_pairs(list(reports.values())), strengths, reason)


def _choose_verdict(rate: WinRate | None, p_value: float) -> VerdictWord:
    if rate is None:
        return "not distinguishable"
    bounds = (rate.bound_low - 0.5, rate.bound_high - 0.5)
    return choose_verdict(rate.rate.mean - 0.5, p_value=p_value, level=LEVEL, bounds=bounds)


def _control_length(report: Report, games: SwappedGames, *, seed: int) -> LengthControlled:
    longer = {str(row["id"]): float(len(row["left"]) - len(row["right"])) for row in report.rows}
    return fit_length_controlled_win_rate(games, longer, seed=seed)


def _fit_strengths(games: Mapping[tuple[str, str], SwappedGames], *, seed: int) -> tuple[BradleyTerry | None, str]:
    if len(games) < 2:
        return None, "two models have a win rate; strengths are for more"
    played = [
        Game(item, *sides, result)
        for sides, each in games.items()
        for order in (each.a_first, each.a_second)
        for item, result in zip(each.ids, order, strict=True)
    ]
    try:
        return fit_bradley_terry(played, seed=seed), ""
    except EvalDataError as error:
        return None, str(error)
