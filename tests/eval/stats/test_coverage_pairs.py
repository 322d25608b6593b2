"""Coverage of the intervals of pairs, strengths and length control; the same with games as the unit must fail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from eval.stats import (
    Game,
    Interval,
    ItemScores,
    SwappedGames,
    bootstrap_mean,
    fit_bradley_terry,
    fit_length_controlled_difference,
    fit_length_controlled_mean,
    fit_length_controlled_win_rate,
    measure_win_rate,
)
from eval.stats.bradley_terry import fit_strengths
from eval.testing.simulated import USUAL_WORDS, Answers, SimulatedJudge, draw_model_answers

RESAMPLES = 500
MANY = 100_000
UNSEEN = 10**6
"""A seed that no scenario draws."""
EXACT = "first of disagreements"
"""Exact bounds cover at least what they say, and more where items are few."""

NotCovered = Callable[..., dict[str, float]]


def ids(n: int) -> tuple[str, ...]:
    return tuple(f"{i:06}" for i in range(n))


def two_models(seed: int, n: int) -> tuple[Answers, Answers]:
    """Where one is right the other may be wrong, so that most items are clear to the judge."""
    a = draw_model_answers(n, seed=seed, number=0, skill=1.0)
    return a, draw_model_answers(n, seed=2 * UNSEEN + seed, number=1, skill=0.85)


def games(seed: int, n: int) -> SwappedGames:
    first, second = SimulatedJudge(seed, position_bias=0.7).play(*two_models(seed, n))
    return SwappedGames(ids(n), tuple(first), tuple(second))


def pairs(seed: int, n: int) -> dict[str, Interval]:
    found = measure_win_rate(games(seed, n), seed=seed, n_resamples=RESAMPLES)
    return {
        "rate": found.rate,
        "place free": found.place_free,
        "consistency": found.consistency,
        "first slot": found.first_slot,
        EXACT: found.first_of_disagreements,
    }


def true_pairs() -> dict[str, float]:
    played = games(UNSEEN, MANY).drop_unscored()
    first, second = played[:, 0], played[:, 1]
    differ = first != second
    return {
        "rate": float(played.mean()),
        "place free": SimulatedJudge(UNSEEN).compute_true_win_rate(*two_models(UNSEEN, MANY)),
        "consistency": float(1 - differ.mean()),
        "first slot": float((first + 1 - second).mean() / 2),
        EXACT: float((first > second)[differ].mean()),
    }


@pytest.mark.parametrize("n_items", [40, 110])
def test_intervals_of_pairs_hold(n_items: int, not_covered: NotCovered) -> None:
    found = not_covered(pairs, true_pairs(), n_items=n_items)
    assert found.pop(EXACT, 1.0) > 0.96
    assert found == {}


def tournament(seed: int, n: int) -> list[Game]:
    skills = {"x": 1.0, "y": 0.9, "z": 0.7}
    models = {name: draw_model_answers(n, seed=seed, number=i, skill=skills[name]) for i, name in enumerate(skills)}
    played = []
    for a, b in (("x", "y"), ("x", "z"), ("y", "z")):
        for results in SimulatedJudge(seed, position_bias=0.5).play(models[a], models[b]):
            played += [Game(item, a, b, float(result)) for item, result in zip(ids(n), results, strict=True)]
    return played


def strengths_of(played: list[Game], seed: int) -> dict[str, Interval]:
    found = fit_bradley_terry(played, seed=seed, n_resamples=RESAMPLES)
    intervals = dict(found.strengths)
    for one in found.differences:
        difference = one.difference
        intervals[f"{one.stronger}-{one.weaker}"] = difference
        intervals[f"{one.weaker}-{one.stronger}"] = Interval(
            -difference.mean, -difference.high, -difference.low, difference.n
        )
    return intervals


def strengths(seed: int, n: int) -> dict[str, Interval]:
    return strengths_of(tournament(seed, n), seed)


def true_strengths() -> dict[str, float]:
    totals = np.zeros((1, 3, 3))
    row = {("x", "y"): 0, ("x", "z"): 1, ("y", "z"): 2}
    for game in tournament(UNSEEN, MANY):
        assert game.result is not None
        totals[0, row[game.a, game.b], round(2 * (1 - game.result))] += 1
    contrast = np.array([[1.0, -1, 0], [1, 0, -1], [0, 1, -1]])
    x, y, z, _ = (float(value) for value in fit_strengths(totals, contrast, has_ties=True)[0])
    return {"x": x, "y": y, "z": z, "x-y": x - y, "x-z": x - z, "y-z": y - z}


def test_intervals_of_strengths_hold(not_covered: NotCovered) -> None:
    assert not_covered(strengths, true_strengths(), n_items=60) == {}


def pairs_by_row(seed: int, n: int) -> dict[str, Interval]:
    """The mistake: the two games of an item resampled as if they were two items."""
    played = games(seed, n).drop_unscored()
    return {"rate": bootstrap_mean(list(played.ravel()), seed=seed, n_resamples=RESAMPLES)}


def strengths_by_row(seed: int, n: int) -> dict[str, Interval]:
    """The mistake: every game an item of its own."""
    return strengths_of([Game(f"{i}", g.a, g.b, g.result) for i, g in enumerate(tournament(seed, n))], seed)


@pytest.mark.statistics
@pytest.mark.parametrize("n_seeds", [2000], indirect=True)
def test_with_games_as_the_unit_the_intervals_do_not_hold(n_seeds: int, not_covered: NotCovered) -> None:
    """The negative control: the test above must be able to fail, and this is the mistake that it is there for."""
    assert not_covered(pairs_by_row, {"rate": true_pairs()["rate"]}, n_items=110)["rate"] < 0.91
    apart = not_covered(strengths_by_row, true_strengths(), n_items=60)
    assert {"x-y", "x-z", "y-z"} <= set(apart)
    assert apart["x-z"] < 0.85


def unequal(seed: int, n: int) -> tuple[Answers, Answers]:
    a = draw_model_answers(n, seed=seed, number=0, skill=0.95, words=(30, 150))
    return a, draw_model_answers(n, seed=seed, number=1, skill=0.9, words=(10, 110))


def lengths(seed: int, n: int) -> dict[str, Interval]:
    a, b = unequal(seed, n)
    likes_length = SimulatedJudge(seed, length_bias=15)
    first, second = likes_length.play(a, b)
    of_a, of_b = (ItemScores(ids(n), tuple(likes_length.score(one))) for one in (a, b))
    longer = dict(zip(ids(n), a.words - b.words, strict=True))
    beyond = dict(zip(ids(n), a.words - USUAL_WORDS, strict=True))
    played = SwappedGames(ids(n), tuple(first), tuple(second))
    return {
        "win rate": fit_length_controlled_win_rate(played, longer, seed=seed, n_resamples=RESAMPLES).controlled,
        "mean": fit_length_controlled_mean(of_a, beyond, seed=seed, n_resamples=RESAMPLES).controlled,
        "difference": fit_length_controlled_difference(of_b, of_a, longer, seed=seed, n_resamples=RESAMPLES).controlled,
    }


def true_without_length() -> dict[str, float]:
    """What the same judge gives without its liking for length, of which the control knows nothing."""
    a, b = unequal(UNSEEN, MANY)
    blind = SimulatedJudge(UNSEEN)
    of_a, of_b = float(blind.score(a).mean()), float(blind.score(b).mean())
    return {"win rate": blind.compute_true_win_rate(a, b), "mean": of_a, "difference": of_a - of_b}


def test_intervals_at_equal_length_hold(not_covered: NotCovered) -> None:
    assert not_covered(lengths, true_without_length(), n_items=110) == {}
