"""Verdicts -> rows and metrics: every item in both, the unscored ones with their reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from eval.stats import (
    Interval,
    ItemScores,
    SwappedGames,
    bootstrap_mean,
    fit_length_controlled_mean,
    measure_win_rate,
    summarise,
)
from eval.types import MAX_SCORE, MIN_SCORE, UNSCORED_REASONS, PairVerdict, Sample, UnscoredReason, Verdict


def build_item_row(sample: Sample, response: str) -> dict[str, Any]:
    """An item and the response to it."""
    return {
        "id": sample.id,
        "instruction": sample.instruction,
        "input": sample.input,
        "reference": sample.reference,
        "response": response,
    }


def build_judged_row(sample: Sample, response: str, verdict: Verdict) -> dict[str, Any]:
    """An item, the response to it and its verdict; the same for a verdict from the store as for the one it was."""
    return {
        **build_item_row(sample, response),
        "score": verdict.score,
        "weighted": verdict.weighted,
        "valid_mass": verdict.valid_mass,
        "rationale": verdict.rationale,
        "reason": verdict.reason,
        "detail": verdict.detail,
        "source": verdict.source,
        "flags": list(verdict.flags),
        "raw": verdict.raw,
        "prompt": verdict.prompt,
        "seconds": verdict.seconds,
    }


def build_pair_row(sample: Sample, left: str, right: str, verdict: PairVerdict) -> dict[str, Any]:
    """An item, both responses and what came of comparing them."""
    row = build_item_row(sample, left)
    row["left"], row["right"] = row.pop("response"), right
    orders = [
        {
            "left_slot": one.left_slot,
            "choice": one.choice,
            "preference": one.preference,
            "rationale": one.rationale,
            "reason": one.reason,
            "flags": list(one.flags),
            "raw": one.raw,
            "prompt": one.prompt,
        }
        for one in verdict.orders
    ]
    return {
        **row,
        "preference": verdict.preference,
        "points": verdict.points,
        "disagrees": verdict.disagrees,
        "reason": verdict.reason,
        "detail": verdict.detail,
        "source": verdict.source,
        "orders": orders,
        "seconds": verdict.seconds,
    }


def compute_pointwise_metrics(verdicts: Sequence[Verdict], *, seed: int) -> dict[str, float]:
    """The metrics that ``eval.run.judge_responses`` describes."""
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    weighted = [verdict.weighted for verdict in verdicts if verdict.weighted is not None]
    masses = [verdict.valid_mass for verdict in verdicts if verdict.valid_mass is not None]
    n, n_unscored = len(verdicts), len(verdicts) - len(scores)
    interval, weighted_interval = _estimate_mean(scores, seed=seed), _estimate_mean(weighted, seed=seed)
    return {
        "judge/mean": interval.mean,
        "judge/ci_low": interval.low,
        "judge/ci_high": interval.high,
        **_count_unscored([verdict.reason for verdict in verdicts]),
        "judge/bound_low": (sum(scores) + MIN_SCORE * n_unscored) / n,
        "judge/bound_high": (sum(scores) + MAX_SCORE * n_unscored) / n,
        "judge/weighted_mean": weighted_interval.mean,
        "judge/weighted_ci_low": weighted_interval.low,
        "judge/weighted_ci_high": weighted_interval.high,
        "judge/weighted_scored": float(len(weighted)),
        "judge/valid_mass": math.fsum(masses) / len(masses) if masses else math.nan,
        "judge/exact_share": sum(verdict.source == "exact_match" for verdict in verdicts) / n,
        "judge/repaired": float(sum("repaired" in verdict.flags for verdict in verdicts)),
        **_measure_effort([verdict for verdict in verdicts if verdict.source == "judge"]),
    }


def compute_length_metrics(rows: Sequence[Mapping[str, Any]], *, seed: int) -> dict[str, float]:
    """The mean where responses are as long as their references; NaN where nothing was scored."""
    scores = ItemScores.from_rows(rows)
    names = ("length_controlled_mean", "length_controlled_low", "length_controlled_high", "length_slope")
    if not len(scores.drop_unscored()):
        return {f"judge/{name}": math.nan for name in (*names, "length_extrapolated")}
    longer = {str(row["id"]): float(len(row["response"]) - len(row["reference"])) for row in rows}
    found = fit_length_controlled_mean(scores, longer, seed=seed)
    numbers = (found.controlled.mean, found.controlled.low, found.controlled.high, found.slope.mean)
    return {
        **{f"judge/{name}": value for name, value in zip(names, numbers, strict=True)},
        "judge/length_extrapolated": float(found.is_extrapolated),
    }


def compute_pairwise_metrics(
    rows: Sequence[Mapping[str, Any]], verdicts: Sequence[PairVerdict], *, seed: int
) -> dict[str, float]:
    """The metrics that ``eval.run.compare_responses`` describes; ``rows`` are those of the verdicts."""
    scored = [verdict for verdict in verdicts if verdict.reason is None]
    both = [verdict for verdict in scored if verdict.orders]
    choices = [one.choice for verdict in both for one in verdict.orders if one.choice != "TIE"]
    return {
        **_measure_win_rate(SwappedGames.from_rows(rows), seed=seed),
        **_count_unscored([verdict.reason for verdict in verdicts]),
        **{
            f"judge/{name}": float(sum(verdict.preference == preference for verdict in scored))
            for name, preference in (("left_wins", "left"), ("right_wins", "right"), ("ties", "tie"))
        },
        "judge/identical": float(sum(verdict.source == "identical" for verdict in verdicts)),
        "judge/disagreements": float(sum(verdict.disagrees for verdict in verdicts)),
        "judge/consistency": sum(not verdict.disagrees for verdict in both) / len(both) if both else math.nan,
        "judge/first_slot": float(choices.count("A")),
        "judge/second_slot": float(choices.count("B")),
        **_measure_effort([verdict for verdict in verdicts if verdict.source == "judge"]),
    }


def _measure_win_rate(games: SwappedGames, *, seed: int) -> dict[str, float]:
    """The left side's, NaN where no item has a result in both orders; the bounds are then those of knowing nothing."""
    if not any(games.is_scored()):
        nothing = dict.fromkeys(("win_rate", "ci_low", "ci_high", "place_free", "p_value"), math.nan)
        return {f"judge/{name}": value for name, value in (nothing | {"bound_low": 0.0, "bound_high": 1.0}).items()}
    found = measure_win_rate(games, seed=seed)
    return {
        "judge/win_rate": found.rate.mean,
        "judge/ci_low": found.rate.low,
        "judge/ci_high": found.rate.high,
        "judge/place_free": found.place_free.mean,
        "judge/p_value": found.p_value,
        "judge/bound_low": found.bound_low,
        "judge/bound_high": found.bound_high,
    }


def _estimate_mean(scores: Sequence[float], *, seed: int) -> Interval:
    """Of scores in the order of their items; equal ones do not make the mean certain."""
    if not scores:
        return bootstrap_mean(scores, seed=seed)
    ids = tuple(f"{i:09d}" for i in range(len(scores)))
    return summarise(ItemScores(ids, tuple(scores)), seed=seed).bootstrap


def _count_unscored(reasons: Sequence[UnscoredReason | None]) -> dict[str, float]:
    counted = Counter(reasons)
    return {
        "judge/scored": float(counted[None]),
        "judge/unscored": float(len(reasons) - counted[None]),
        **{f"judge/unscored_{reason}": float(counted[reason]) for reason in UNSCORED_REASONS},
    }


def _measure_effort(asked: Sequence[Verdict] | Sequence[PairVerdict]) -> dict[str, float]:
    return {
        "judge/cached": float(sum(verdict.cached for verdict in asked)),
        "judge/seconds_per_item": math.fsum(verdict.seconds for verdict in asked) / len(asked) if asked else 0.0,
        "judge/load_seconds": max((verdict.load_seconds for verdict in asked), default=0.0),
    }
