"""Strengths against closed forms, an independent optimiser, and the unit of resampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import minimize

from eval.errors import EvalDataError
from eval.stats import Game, fit_bradley_terry


def series(a: str, b: str, *, won: int, tied: int, lost: int) -> list[Game]:
    outcomes = [1.0] * won + [0.5] * tied + [0.0] * lost
    return [Game(f"item-{i}", a, b, result) for i, result in enumerate(outcomes)]


def random_games(seed: int, *, n_items: int = 30) -> list[Game]:
    rng = np.random.default_rng(seed)
    strength = {"ada": 0.8, "bob": 0.1, "cyd": -0.3, "dot": -0.6}
    games = []
    for item, (a, b) in itertools.product(range(n_items), itertools.combinations(strength, 2)):
        seen = strength[a] - strength[b] + rng.logistic()
        games.append(Game(f"{item}", a, b, 0.5 if abs(seen) < 0.3 else float(seen > 0)))
    return games


def test_two_models_differ_by_the_logit_of_the_win_rate() -> None:
    found = fit_bradley_terry(series("x", "y", won=30, tied=0, lost=10), seed=0, n_resamples=200)
    assert found.strengths["x"].mean - found.strengths["y"].mean == pytest.approx(math.log(0.75 / 0.25))
    assert found.strengths["x"].mean == pytest.approx(-found.strengths["y"].mean)
    assert found.log_tie is None


def test_ties_follow_davidsons_closed_form_for_two_models() -> None:
    found = fit_bradley_terry(series("x", "y", won=20, tied=12, lost=5), seed=0, n_resamples=50)
    [one] = found.differences
    assert (one.stronger, one.weaker) == ("x", "y")
    assert one.difference.mean == pytest.approx(math.log(20 / 5))
    assert found.log_tie == pytest.approx(math.log(12 / math.sqrt(20 * 5)))


def test_many_models_are_fitted_as_by_an_optimiser_that_knows_only_the_formula() -> None:
    games = random_games(5)
    models = ["ada", "bob", "cyd", "dot"]

    def minus_log_likelihood(parameters: np.ndarray) -> float:
        strength, nu = dict(zip(models, parameters[:4], strict=True)), math.exp(parameters[4])
        total = 0.0
        for game in games:
            p, q = math.exp(strength[game.a]), math.exp(strength[game.b])
            tie = nu * math.sqrt(p * q)
            total -= math.log({1.0: p, 0.5: tie, 0.0: q}[game.result or 0.0] / (p + q + tie))
        return total

    optimum = minimize(minus_log_likelihood, np.zeros(5), method="BFGS", options={"gtol": 1e-6}).x
    found = fit_bradley_terry(games, seed=0, n_resamples=20)
    for name, value in zip(models, optimum[:4] - optimum[:4].mean(), strict=True):
        assert found.strengths[name].mean == pytest.approx(value, abs=1e-4)
    assert found.log_tie == pytest.approx(optimum[4], abs=1e-4)
    assert list(found.strengths) == sorted(models, key=lambda name: -found.strengths[name].mean)


def test_the_gauge_is_a_mean_of_zero_and_every_pair_has_its_difference() -> None:
    found = fit_bradley_terry(random_games(2), seed=0, n_resamples=300)
    assert sum(one.mean for one in found.strengths.values()) == pytest.approx(0, abs=1e-9)
    assert len(found.differences) == 6
    for one in found.differences:
        assert one.difference.mean == pytest.approx(
            found.strengths[one.stronger].mean - found.strengths[one.weaker].mean
        )
        assert one.difference.low < one.difference.mean < one.difference.high
        assert one.difference.mean >= 0


def test_the_order_of_games_and_the_side_of_a_model_change_nothing() -> None:
    games = random_games(3)
    turned = [Game(game.item, game.b, game.a, 1 - (game.result or 0.0)) for game in reversed(games)]
    first, second = (fit_bradley_terry(some, seed=4, n_resamples=100) for some in (games, turned))
    for name, one in first.strengths.items():
        other = second.strengths[name]
        assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high), abs=1e-6)


def test_games_on_one_item_are_resampled_together() -> None:
    # Four times the same game on each item says no more than one: the interval must not shrink.
    games = series("x", "y", won=20, tied=0, lost=20)
    copies = [Game(game.item, game.a, game.b, game.result) for game in games for _ in range(4)]
    once, four_times = (
        fit_bradley_terry(some, seed=1, n_resamples=400).differences[0].difference for some in (games, copies)
    )
    assert (once.low, once.high) == pytest.approx((four_times.low, four_times.high), abs=1e-6)
    assert four_times.n == 40


def test_a_bound_that_resamples_cannot_fix_is_infinite_rather_than_a_guess() -> None:
    found = fit_bradley_terry(series("x", "y", won=30, tied=0, lost=1), seed=0, n_resamples=500)
    [one] = found.differences
    assert one.difference.mean == pytest.approx(math.log(30))
    assert one.difference.high == math.inf
    assert math.isfinite(one.difference.low)
    assert (found.strengths["x"].high, found.strengths["y"].low) == (math.inf, -math.inf)


@pytest.mark.parametrize("results", [(0.5, 0.5), (1.0, 0.0)])
def test_items_that_all_came_out_alike_give_no_strengths_of_false_certainty(results: tuple[float, float]) -> None:
    games = [Game(f"{i}", a, b, one) for i in range(9) for a, b in (("x", "y"), ("y", "z")) for one in results]
    with pytest.raises(EvalDataError, match="all 9 items came out alike"):
        fit_bradley_terry(games, seed=1, n_resamples=20)


def test_unscored_games_are_counted() -> None:
    found = fit_bradley_terry([*random_games(1), Game("0", "ada", "bob", None)], seed=0, n_resamples=20)
    assert (found.n_games, found.n_unscored) == (180, 1)


def test_games_that_leave_strengths_without_a_value_are_refused_by_name() -> None:
    with pytest.raises(EvalDataError, match=r"never both won and lost against each other: .*compare them by win rate"):
        fit_bradley_terry(series("x", "y", won=5, tied=0, lost=0), seed=0)
    apart = series("x", "y", won=3, tied=0, lost=3) + series("v", "w", won=3, tied=1, lost=2)
    with pytest.raises(EvalDataError, match="v, w"):
        fit_bradley_terry(apart, seed=0)
    with pytest.raises(EvalDataError, match="expected games between two models, got a game of 'x' with itself"):
        fit_bradley_terry([Game("1", "x", "x", 1)], seed=0)
    with pytest.raises(EvalDataError, match=r"expected a result of 1, 0\.5, 0 or None .*, got 2"):
        fit_bradley_terry([Game("1", "x", "y", 2)], seed=0)
    with pytest.raises(EvalDataError, match="at least two models, got 0 with results"):
        fit_bradley_terry([Game("1", "x", "y", None)], seed=0)
