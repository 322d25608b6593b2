"""Statistics against known values, closed forms and real scores."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from eval.errors import EvalConfigError, EvalDataError, UnpairableError
from eval.stats import agreement, mean_interval, paired_difference

scores = st.lists(st.integers(0, 100), min_size=2, max_size=30)


def real_scores(shared_data: Path, name: str) -> list[float]:
    values: list[float] = json.loads((shared_data / "judge_scores" / f"{name}-response.json").read_text("utf-8"))
    return values


def test_the_mean_lies_inside_an_interval_that_follows_the_seed() -> None:
    values = [0, 20, 40, 60, 80, 100] * 5
    first, again, other = (mean_interval(values, seed=seed, n_resamples=500) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first.low < first.mean == 50 < first.high
    assert first.n == 30


def test_the_interval_agrees_with_the_normal_one_where_both_hold() -> None:
    values = np.random.default_rng(0).normal(50, 10, size=400)
    found = mean_interval(list(values), seed=3, n_resamples=4000)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1)


def test_intervals_cover_the_true_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    # Scores as a judge gives them: many at the top, the rest spread.
    draws = np.where(rng.random((200, 60)) < 0.5, 100, rng.integers(0, 101, (200, 60)))
    covered = 0
    for number, draw in enumerate(draws):
        interval = mean_interval(list(draw), seed=number, n_resamples=400)
        covered += interval.low <= 75 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_no_value_gives_no_number_and_one_value_no_interval() -> None:
    nothing, one = mean_interval([], seed=0), mean_interval([40], seed=0)
    assert math.isnan(nothing.mean)
    assert nothing.n == 0
    assert one.mean == 40
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_a_paired_difference_finds_what_the_means_of_noisy_items_hide() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 90, size=60)
    b = a + 5 + rng.normal(0, 3, size=60)
    found = paired_difference(list(a), list(b), seed=1, n_resamples=2000)
    assert found.low < found.difference < found.high
    assert found.difference == pytest.approx(5, abs=1.5)
    assert found.low > 0
    assert found.p_value < 0.01
    alone = mean_interval(list(b), seed=1)
    assert alone.high - alone.low > 3 * (found.high - found.low)


def test_the_permutation_p_value_is_the_exact_one_for_few_items() -> None:
    # All 2^5 sign patterns of 1..5: the sum 15 or -15 comes twice.
    found = paired_difference([0] * 5, [1, 2, 3, 4, 5], seed=0, n_resamples=20_000)
    assert found.p_value == pytest.approx(2 / 32, abs=0.01)


def test_the_permutation_test_keeps_its_level_without_a_difference() -> None:
    rng = np.random.default_rng(9)
    rejected = 0
    for number in range(200):
        pairs = rng.integers(0, 101, (2, 30))
        rejected += paired_difference(list(pairs[0]), list(pairs[1]), seed=number, n_resamples=300).p_value <= 0.05
    assert 0.01 <= rejected / 200 <= 0.10


def test_the_minimum_detectable_difference_is_the_textbook_one() -> None:
    delta = [10, -10] * 55
    found = paired_difference([0] * 110, delta, seed=0, n_resamples=100)
    assert found.minimum_detectable == pytest.approx(2.8016 * np.std(delta, ddof=1) / math.sqrt(110), rel=1e-4)


@settings(database=None, deadline=None, max_examples=30)
@given(scores, st.integers(0, 5))
def test_swapping_the_two_sides_turns_the_difference_round(values: list[int], seed: int) -> None:
    there = paired_difference(values, values[::-1], seed=seed, n_resamples=200)
    back = paired_difference(values[::-1], values, seed=seed, n_resamples=200)
    assert there.difference == -back.difference
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    assert there.p_value == back.p_value


def test_real_scores_of_two_judges_reproduce_the_published_agreement(shared_data: Path) -> None:
    found = agreement(real_scores(shared_data, "gpt4-model-1"), real_scores(shared_data, "llama3-8b-model-1"))
    assert found.n == 100
    assert found.pearson == pytest.approx(0.805, abs=0.0005)
    assert found.spearman == pytest.approx(0.698, abs=0.0005)
    assert found.kendall == pytest.approx(0.573, abs=0.0005)


def test_a_real_set_that_lost_a_score_cannot_be_paired(shared_data: Path) -> None:
    whole, short = real_scores(shared_data, "gpt4-model-2"), real_scores(shared_data, "llama3-8b-model-2")
    with pytest.raises(UnpairableError, match="100 scores cannot be paired with 99: a score was dropped somewhere"):
        agreement(whole, short)
    with pytest.raises(UnpairableError, match="99 scores cannot be paired with 100"):
        paired_difference(short, whole, seed=0)


def test_a_rater_of_one_value_agrees_with_nothing_by_no_number() -> None:
    found = agreement([1, 2, 3], [50, 50, 50])
    assert all(math.isnan(value) for value in (found.pearson, found.spearman, found.kendall))


def test_agreement_is_scipys() -> None:
    a, b = [1, 2, 3, 4, 5, 5], [2, 1, 3, 5, 4, 4]
    found = agreement(a, b)
    assert found.kendall == pytest.approx(scipy_stats.kendalltau(a, b).statistic)
    assert found.spearman == pytest.approx(scipy_stats.spearmanr(a, b).statistic)
    assert found.pearson == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(UnpairableError, match="there are no scores to pair"):
        agreement([], [])
    with pytest.raises(EvalDataError, match=r"values\[1\] is nan, not a finite number; keep unscored items out"):
        mean_interval([1, math.nan], seed=0)
    with pytest.raises(EvalConfigError, match="n_resamples is 0; it must be at least 1"):
        mean_interval([1, 2], seed=0, n_resamples=0)
    with pytest.raises(EvalConfigError, match=r"confidence is 95; it must lie between 0 and 1"):
        mean_interval([1, 2], seed=0, confidence=95)
