"""Length control against closed forms and an independent optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from eval.errors import EvalDataError, UnpairableError
from eval.stats import (
    ItemScores,
    SwappedGames,
    fit_length_controlled_difference,
    fit_length_controlled_mean,
    fit_length_controlled_win_rate,
)
from eval.stats.bootstrap import Floats


def ids(n: int) -> tuple[str, ...]:
    return tuple(f"item-{i:03}" for i in range(n))


def lengths(values: object) -> dict[str, float]:
    listed = [float(value) for value in values]  # type: ignore[attr-defined]
    return dict(zip(ids(len(listed)), listed, strict=True))


def random_pairs(n: int = 80) -> tuple[SwappedGames, Floats]:
    rng = np.random.default_rng(6)
    longer = rng.normal(10, 30, n)
    results = rng.choice([0.0, 0.5, 1.0], size=(2, n), p=[0.3, 0.1, 0.6])
    return SwappedGames(ids(n), tuple(results[0]), tuple(results[1])), longer


def test_the_win_rate_at_equal_length_is_that_of_an_optimiser_that_knows_only_the_formula() -> None:
    games, longer = random_pairs()
    weight, x = games.drop_unscored().mean(axis=1), np.tanh(longer / longer.std())

    def minus_log_likelihood(b: Floats) -> float:
        utility = b[0] + b[1] * x
        return float((np.logaddexp(0, utility) - weight * utility).sum())

    optimum = minimize(minus_log_likelihood, np.zeros(2)).x
    found = fit_length_controlled_win_rate(games, lengths(longer), seed=0, n_resamples=200)
    assert found.controlled.mean == pytest.approx(1 / (1 + np.exp(-optimum[0])), abs=1e-5)
    assert found.slope.mean == pytest.approx(optimum[1], abs=1e-4)
    assert found.raw.mean == pytest.approx(weight.mean())
    assert not found.is_extrapolated


def test_the_mean_at_equal_length_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(2)
    longer = rng.normal(0, 40, 60)
    scores = np.clip(50 + 10 * np.tanh(longer / 40) + rng.normal(0, 5, 60), 0, 100)
    slope, constant = np.polyfit(np.tanh(longer / longer.std()), scores, 1)
    found = fit_length_controlled_mean(ItemScores(ids(60), tuple(scores)), lengths(longer), seed=0, n_resamples=200)
    assert (found.controlled.mean, found.slope.mean) == (pytest.approx(constant), pytest.approx(slope))
    assert found.slope.low > 0


def test_a_difference_of_runs_that_is_all_length_goes_away() -> None:
    rng = np.random.default_rng(7)
    baseline = rng.uniform(20, 60, 80)
    longer = rng.normal(25, 40, 80)
    candidate = baseline + 12 * np.tanh(longer / longer.std()) + rng.normal(0, 3, 80)
    found = fit_length_controlled_difference(
        ItemScores(ids(80), tuple(baseline)),
        ItemScores(ids(80), tuple(candidate)),
        lengths(longer),
        seed=0,
        n_resamples=500,
    )
    assert found.raw.low > 1.5
    assert found.controlled.low < 0 < found.controlled.high


def test_without_length_to_speak_of_nothing_is_taken_away() -> None:
    games, _ = random_pairs()
    same = fit_length_controlled_win_rate(games, lengths([0] * 80), seed=0, n_resamples=50)
    assert same.controlled.mean == pytest.approx(same.raw.mean, abs=1e-6)
    assert same.slope.mean == pytest.approx(0, abs=1e-9)
    assert not same.is_extrapolated


def test_lengths_that_all_differ_one_way_are_called_an_extrapolation() -> None:
    games, longer = random_pairs()
    found = fit_length_controlled_win_rate(games, lengths(np.abs(longer) + 1), seed=0, n_resamples=50)
    assert found.is_extrapolated
    assert fit_length_controlled_win_rate(games, lengths([5] * 80), seed=0, n_resamples=50).is_extrapolated


def test_items_without_a_score_stay_out_and_other_items_are_refused() -> None:
    scores = ItemScores(ids(4), (10, None, 30, 20))
    found = fit_length_controlled_mean(scores, lengths([1, 2, -3, 4]), seed=0, n_resamples=20)
    assert (found.raw.mean, found.raw.n) == (20, 3)
    with pytest.raises(UnpairableError, match="only the first has 'item-003'"):
        fit_length_controlled_mean(scores, lengths([1, 2, 3]), seed=0)
    with pytest.raises(EvalDataError, match="no item is scored"):
        fit_length_controlled_mean(ItemScores(ids(2), (None, None)), lengths([1, 2]), seed=0)
    with pytest.raises(UnpairableError, match="no item is scored in both runs"):
        fit_length_controlled_difference(
            ItemScores(ids(2), (None, 1)), ItemScores(ids(2), (1, None)), lengths([1, 2]), seed=0
        )
    with pytest.raises(EvalDataError, match=r"expected a finite number as length_differences\[0\], got nan"):
        fit_length_controlled_mean(ItemScores(ids(1), (1,)), lengths([float("nan")]), seed=0)
