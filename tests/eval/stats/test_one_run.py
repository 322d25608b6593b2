"""One run's mean: intervals, bounds of the unscored, and the split of its noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from eval.errors import EvalConfigError, EvalDataError
from eval.stats import ItemScores, bootstrap_mean, compute_student_interval, split_noise, summarise

maybe_scores = st.lists(st.none() | st.integers(0, 100), min_size=1, max_size=30)


def run(scores: list[int | None]) -> ItemScores:
    return ItemScores(tuple(f"item-{i}" for i in range(len(scores))), tuple(scores))


def test_the_mean_lies_inside_an_interval_that_follows_the_seed() -> None:
    values = [0, 20, 40, 60, 80, 100] * 5
    first, again, other = (bootstrap_mean(values, seed=seed, n_resamples=500) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first.low < first.mean == 50 < first.high
    assert first.n == 30


def test_the_bootstrap_interval_agrees_with_students_where_both_hold() -> None:
    values = np.random.default_rng(0).normal(50, 10, size=400)
    found, student = bootstrap_mean(list(values), seed=3, n_resamples=4000), compute_student_interval(list(values))
    assert found.low == pytest.approx(student.low, abs=0.1)
    assert found.high == pytest.approx(student.high, abs=0.1)


def test_students_interval_is_scipys() -> None:
    values = [0, 20, 95, 100, 100, 40]
    wanted = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = compute_student_interval(values, confidence=0.9)
    assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))


def test_no_value_gives_no_number_and_one_value_no_interval() -> None:
    for interval in (bootstrap_mean([], seed=0), compute_student_interval([])):
        assert math.isnan(interval.mean)
        assert interval.n == 0
    for interval in (bootstrap_mean([40], seed=0), compute_student_interval([40])):
        assert interval.mean == 40
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


def test_unscored_items_stand_in_the_bounds_and_not_in_the_mean() -> None:
    found = summarise(run([80, None, 40, None]), seed=0, n_resamples=200)
    assert found.bootstrap.mean == found.student.mean == 60
    assert found.bootstrap.n == 2
    assert (found.bound_low, found.bound_high) == (30, 80)
    assert found.n_unscored == 2


def test_equal_scores_do_not_claim_to_know_the_mean_exactly() -> None:
    found = summarise(run([100] * 10), seed=0, n_resamples=200)
    # What ten items never showed has at most the chance 1 - 0.025^(1/10), and could be worth 0.
    assert found.bootstrap.low == pytest.approx(100 * 0.025 ** (1 / 10))
    assert found.bootstrap.high == 100
    assert found.student.low == found.student.high == 100


@settings(database=None, deadline=None, max_examples=50)
@given(maybe_scores)
def test_an_unscored_item_more_never_raises_the_lower_bound_nor_lowers_the_upper(scores: list[int | None]) -> None:
    before, after = (summarise(run(values), seed=0, n_resamples=20) for values in (scores, [*scores, None]))
    assert after.bound_low <= before.bound_low
    assert after.bound_high >= before.bound_high


@settings(database=None, deadline=None, max_examples=50)
@given(maybe_scores, st.randoms(use_true_random=False))
def test_the_order_of_the_items_changes_nothing(scores: list[int | None], shuffler: object) -> None:
    items = [(f"item-{i}", score) for i, score in enumerate(scores)]
    shuffled = items.copy()
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = (
        summarise(ItemScores(*zip(*some, strict=True)), seed=5, n_resamples=50) for some in (items, shuffled)
    )
    assert repr(first) == repr(second)  # NaN is not equal to itself


def test_noise_is_split_into_what_items_and_what_the_judge_bring() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(50, 12, size=2000)
    found = split_noise(
        {f"{i}": list(mean + rng.normal(0, 5, size=rng.integers(2, 5))) for i, mean in enumerate(truth)}
    )
    assert found.item_sd == pytest.approx(12, rel=0.05)
    assert found.judge_sd == pytest.approx(5, rel=0.05)
    assert found.judge_share == pytest.approx(25 / 169, rel=0.1)
    assert found.compute_standard_error(100) == pytest.approx(1.3, rel=0.05)
    assert found.compute_standard_error(100, repeats=5) == pytest.approx(math.sqrt((144 + 5) / 100), rel=0.05)


def test_a_judge_that_never_wavers_brings_no_noise_and_one_that_only_wavers_all_of_it() -> None:
    assert split_noise({"a": [10, 10], "b": [90, 90, 90]}).judge_sd == 0
    assert split_noise({"a": [0, 100], "b": [100, 0]}).judge_share == 1
    assert math.isnan(split_noise({"a": [5, 5], "b": [5, 5]}).judge_share)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(
        EvalDataError, match=r"expected a finite number as values\[1\], got nan; keep unscored items out"
    ):
        bootstrap_mean([1, math.nan], seed=0)
    with pytest.raises(EvalConfigError, match=r"expected n_resamples of at least 1 .*, got 0"):
        bootstrap_mean([1, 2], seed=0, n_resamples=0)
    with pytest.raises(EvalConfigError, match=r"expected a confidence between 0 and 1 .*, got 95"):
        bootstrap_mean([], seed=0, confidence=95)
    with pytest.raises(EvalDataError, match="expected at least one item to summarise, got none"):
        summarise(run([]), seed=0)
    with pytest.raises(EvalDataError, match="expected at least two scores of item 'b', got 1"):
        split_noise({"a": [1, 2], "b": [3]})
    with pytest.raises(EvalDataError, match="expected at least two items that were judged more than once, got 1"):
        split_noise({"a": [1, 2]})
