"""Strengths of more than two models from their games: Bradley-Terry, with Davidson's term for ties.

    P(i beats j) = p_i / (p_i + p_j + nu sqrt(p_i p_j)),  P(tie) = nu sqrt(p_i p_j) / (same),  strength = log p

Bradley and Terry 1952, https://doi.org/10.2307/2334029; Davidson 1970, https://doi.org/10.1080/01621459.1970.10481082.
**Gauge: the strengths of all models have the mean 0**, since games tell differences only; a difference of 1 is odds of
e = 2.7 among decided games. For two models without ties the difference is the logit of the win rate.

Intervals resample items, never games: all games on an item share its difficulty, and the two orders are nearly the same
game twice. Resampling rows instead gives intervals that are far too narrow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.errors import EvalDataError
from eval.stats.bootstrap import (
    CONFIDENCE,
    N_RESAMPLES,
    Floats,
    Interval,
    Statistic,
    bootstrap_intervals,
    check_resampling,
)
from eval.stats.pairwise import LOSS, TIE, WIN

_UNBOUNDED = 12.0
"""A difference beyond this (odds of 160,000) comes from a resample in which a model won or lost everything."""
_ITERATIONS = 60
_RIDGE = 1e-9


@dataclass(frozen=True)
class Game:
    """One game of ``a`` against ``b`` on one item."""

    item: str
    a: str
    b: str
    result: float | None
    """a's: 1 won, 0.5 tied, 0 lost, None unscored."""


@dataclass(frozen=True)
class StrengthDifference:
    """How much stronger one model is than another, with its own interval: those of two strengths say less."""

    stronger: str
    weaker: str
    difference: Interval
    """Log odds of a decided game; it excludes 0 where the order of the two is more than chance."""


@dataclass(frozen=True)
class BradleyTerry:
    """The strengths of all models, strongest first."""

    strengths: dict[str, Interval]
    """Log scale, mean 0. A bound is infinite where resamples hold no loss (or win) of a model."""
    differences: tuple[StrengthDifference, ...]
    """Every pair of models."""
    log_tie: float | None
    """log nu; None if there were no ties, and so no such term."""
    n_games: int
    """Games with a result."""
    n_unscored: int
    """Games without."""


def fit_bradley_terry(
    games: Sequence[Game], *, seed: int, n_resamples: int = N_RESAMPLES, confidence: float = CONFIDENCE
) -> BradleyTerry:
    """Fit by maximum likelihood; intervals by refitting resamples of items.

    Raises EvalDataError for a game of a model with itself, an impossible result, fewer than two models, items that all
    came out alike, or models whose games leave their strengths without a finite value; EvalConfigError for impossible
    settings.
    """
    check_resampling(n_resamples=n_resamples, confidence=confidence)
    _check_games(games)
    scored = sorted((game for game in games if game.result is not None), key=lambda g: (g.item, g.a, g.b))
    models = sorted({name for game in scored for name in (game.a, game.b)})
    if len(models) < 2:
        raise EvalDataError(f"expected games between at least two models, got {len(models)} with results")
    items = _count_by_item(scored, models)
    totals = items.sum(axis=0)
    _check_connected(totals, models)
    if not np.ptp(items, axis=0).any():
        raise EvalDataError(
            f"all {len(items)} items came out alike, as where every game is a tie, so that nothing tells how far other"
            " items would move the strengths; compare the models by win rate"
        )
    pairs = list(itertools.combinations(range(len(models)), 2))
    has_ties = bool(totals[:, 1].any())
    found = bootstrap_intervals(
        _build_statistic(items, pairs, has_ties=has_ties),
        n_items=len(items),
        seed=seed,
        n_resamples=n_resamples,
        confidence=confidence,
    )
    strengths = found[: len(models)]
    order = sorted(range(len(models)), key=lambda i: -strengths[i].mean)
    return BradleyTerry(
        strengths={models[i]: strengths[i] for i in order},
        differences=tuple(
            _order_difference(models[i], models[j], one)
            for (i, j), one in zip(pairs, found[len(models) : len(models) + len(pairs)], strict=True)
        ),
        log_tie=found[-1].mean if has_ties else None,
        n_games=len(scored),
        n_unscored=len(games) - len(scored),
    )


def _order_difference(first: str, second: str, found: Interval) -> StrengthDifference:
    if found.mean >= 0:
        return StrengthDifference(first, second, found)
    return StrengthDifference(second, first, Interval(-found.mean, -found.high, -found.low, found.n))


def _check_games(games: Sequence[Game]) -> None:
    for game in games:
        if game.a == game.b:
            raise EvalDataError(
                f"expected games between two models, got a game of {game.a!r} with itself on item {game.item!r}"
            )
        if game.result not in (WIN, TIE, LOSS, None):
            raise EvalDataError(f"expected a result of 1, 0.5, 0 or None on item {game.item!r}, got {game.result!r}")


def _count_by_item(games: Sequence[Game], models: Sequence[str]) -> Floats:
    """Wins of the first, ties, wins of the second: [items, pairs, 3], which is all that the likelihood needs."""
    number = {name: i for i, name in enumerate(models)}
    pair_number = {pair: i for i, pair in enumerate(itertools.combinations(range(len(models)), 2))}
    item_number = {name: i for i, name in enumerate(sorted({game.item for game in games}))}
    counts = np.zeros((len(item_number), len(pair_number), 3))
    for game in games:
        i, j, result = number[game.a], number[game.b], game.result
        assert result is not None  # only scored games come here
        if i > j:
            i, j, result = j, i, 1 - result
        counts[item_number[game.item], pair_number[i, j], round(2 * (1 - result))] += 1
    return counts


def _check_connected(totals: Floats, models: Sequence[str]) -> None:
    """Ford's condition (1957): finite strengths exist if no group of models won all of its games against the others."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    beats = np.zeros((len(models), len(models)))
    for (i, j), (wins, ties, losses) in zip(itertools.combinations(range(len(models)), 2), totals, strict=True):
        beats[i, j], beats[j, i] = wins + ties, losses + ties
    n_groups, group = connected_components(csr_array(beats), directed=True, connection="strong")
    if n_groups > 1:
        apart = [", ".join(name for name, at in zip(models, group, strict=True) if at == g) for g in range(n_groups)]
        raise EvalDataError(
            f"these groups of models never both won and lost against each other: {' | '.join(apart)}; their strengths"
            " have no finite difference, so compare them by win rate, or judge more items"
        )


def _build_statistic(items: Floats, pairs: Sequence[tuple[int, int]], *, has_ties: bool) -> Statistic:
    n_models = pairs[-1][1] + 1
    contrast = np.zeros((len(pairs), n_models))
    for row, (i, j) in enumerate(pairs):
        contrast[row, i], contrast[row, j] = 1.0, -1.0

    def statistic(counts: Floats) -> Floats:
        totals = np.tensordot(counts, items, axes=1)
        fitted = fit_strengths(totals, contrast, has_ties=has_ties)
        strengths = fitted[:, :n_models]
        differences = strengths @ contrast.T
        is_apart = np.abs(differences) > _UNBOUNDED
        # With the mean held at 0, one strength that grows without bound pushes the others down without bound.
        is_pushed = is_apart.any(axis=1, keepdims=True) & (np.abs(strengths) > _UNBOUNDED / n_models)
        strengths = np.where(is_pushed, np.copysign(math.inf, strengths), strengths)
        differences = np.where(is_apart, np.copysign(math.inf, differences), differences)
        return np.concatenate([strengths, differences, fitted[:, n_models:]], axis=1)

    return statistic


def fit_strengths(totals: Floats, contrast: Floats, *, has_ties: bool) -> Floats:
    """Maximum likelihood for many tables at once by Newton's method; the likelihood is concave.

    Args:
        totals: wins of the first, ties, wins of the second, [tables, pairs, 3].
        contrast: +1 at the first and -1 at the second model of each pair, [pairs, models].
        has_ties: whether to fit the tie term; if not, ties must be absent.

    Returns:
        Strengths with mean 0 and, with ties, log nu: [tables, models (+ 1)].
    """
    n_tables, n_models = len(totals), contrast.shape[1]
    # A game's three outcomes have the utilities d/2, log nu, -d/2 (Davidson's model as a multinomial logit).
    design = np.zeros((len(contrast), 3, n_models + 1))
    design[:, 0, :n_models], design[:, 2, :n_models] = contrast / 2, -contrast / 2
    design[:, 1, n_models] = 1.0
    if not has_ties:
        design = design[..., :n_models]
    n_games = totals.sum(axis=2)
    parameters = np.zeros((n_tables, design.shape[2]))
    # So small a ridge moves nothing that has a finite maximum; it fixes the gauge, and stops what has none.
    ridge = _RIDGE * n_games.sum(axis=1)[:, None]
    identity = np.eye(design.shape[2])
    for _ in range(_ITERATIONS):
        utility = parameters @ design.reshape(-1, design.shape[2]).T
        weights = np.exp(utility.reshape(n_tables, len(contrast), 3))
        if not has_ties:
            weights[:, :, 1] = 0.0
        chance = weights / weights.sum(axis=2, keepdims=True)
        gradient = np.einsum("bpo,pok->bk", totals - n_games[..., None] * chance, design) - ridge * parameters
        centre = np.einsum("bpo,pok->bpk", chance, design)
        hessian = np.einsum("bp,bpo,pok,pol->bkl", n_games, chance, design, design, optimize=True)
        hessian -= np.einsum("bp,bpk,bpl->bkl", n_games, centre, centre, optimize=True)
        hessian += ridge[..., None] * identity
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        parameters += np.clip(step, -2.0, 2.0)
        parameters[:, :n_models] -= parameters[:, :n_models].mean(axis=1, keepdims=True)
        if np.abs(step).max() < 1e-9:
            break
    return parameters
