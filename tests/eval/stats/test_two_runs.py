"""Two runs and more: paired difference, verdict words, families, and the tests behind them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from eval.errors import EvalConfigError, UnpairableError
from eval.stats import (
    Comparison,
    ItemScores,
    adjust_holm,
    compare_family,
    compare_runs,
    count_items_needed,
    measure_paired_difference,
    run_mcnemar,
)

scores = st.lists(st.integers(0, 100), min_size=2, max_size=30)
pairs_of_scores = st.lists(st.tuples(*[st.none() | st.integers(0, 100)] * 2), min_size=2, max_size=25).filter(
    lambda rows: any(None not in row for row in rows)
)


def run(values: object) -> ItemScores:
    scored = [None if value is None else float(value) for value in values]  # type: ignore[attr-defined]
    return ItemScores(tuple(f"item-{i:03}" for i in range(len(scored))), tuple(scored))


def compare(a: object, b: object, **chosen: object) -> Comparison:
    return compare_runs(run(a), run(b), **({"seed": 1, "n_resamples": 2000} | chosen))  # type: ignore[arg-type]


def test_a_paired_difference_finds_what_the_means_of_noisy_items_hide() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 90, size=60)
    found = compare(a, a + 5 + rng.normal(0, 1, size=60))
    assert found.verdict == "better"
    assert 4 < found.paired.low < found.paired.difference < found.paired.high < 6
    assert found.paired.p_value < 0.01
    assert found.wilcoxon_p < 0.01


def test_the_permutation_p_value_is_exact_for_few_items() -> None:
    # Of all 2^5 sign patterns of 1..5 the sums 15 and -15 come once each.
    assert measure_paired_difference([0] * 5, [1, 2, 3, 4, 5], seed=0).p_value == 2 / 32
    # Drawn, it never is 0.
    assert measure_paired_difference([0] * 30, [50] * 30, seed=0, n_resamples=999).p_value == 1 / 1000


def test_drawn_and_exact_p_values_agree() -> None:
    delta = [3, -1, 4, 1, -5, 9, 2, 6, -5, 3]
    exact = measure_paired_difference([0] * 10, delta, seed=0, n_resamples=1024).p_value
    assert measure_paired_difference([0] * 10, delta, seed=0, n_resamples=1023).p_value == pytest.approx(
        exact, abs=0.04
    )


def test_the_minimum_detectable_difference_and_the_items_needed_are_the_textbook_ones() -> None:
    delta = [10, -10] * 55
    found = measure_paired_difference([0] * 110, delta, seed=0, n_resamples=100)
    sd = float(np.std(delta, ddof=1))
    assert found.minimum_detectable == pytest.approx(2.8016 * sd / math.sqrt(110), rel=1e-4)
    assert count_items_needed(sd, found.minimum_detectable) == pytest.approx(110, abs=1)
    # A judge of 35 points' spread of paired differences shows 9.4 points on 110 items.
    assert count_items_needed(35, 9.4) in {109, 110}
    assert count_items_needed(35, 0) is None
    with pytest.raises(EvalConfigError, match="expected a standard deviation of at least 0, got -1"):
        count_items_needed(-1, 5)


def test_noise_is_not_distinguishable_and_says_how_many_items_would_tell() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 101, (2, 50))
    found = compare(a, b)
    assert found.verdict == "not distinguishable"
    assert found.items_needed is not None
    assert found.items_needed > 50
    assert abs(found.paired.difference) < found.paired.minimum_detectable


def test_a_difference_that_the_unscored_items_could_turn_is_not_claimed() -> None:
    a, b = [50.0] * 20, [58.0] * 20
    assert compare(a, b).verdict == "better"
    assert compare(a, [None, *b[1:]]).verdict == "better"
    unsure = compare(a, [None, None, None, *b[3:]])
    assert unsure.paired.p_value < 0.01
    assert unsure.bound_low == pytest.approx((17 * 8 - 3 * 50) / 20)
    assert unsure.verdict == "not distinguishable"
    assert unsure.n_unscored == 3
    assert compare([None, None, None, *b[3:]], a).verdict == "not distinguishable"


@settings(database=None, deadline=None, max_examples=30)
@given(pairs_of_scores, st.integers(0, 3))
def test_swapping_the_two_runs_turns_everything_round(rows: list[tuple[int | None, int | None]], seed: int) -> None:
    a, b = zip(*rows, strict=True)
    there, back = (compare(*runs, seed=seed, n_resamples=200) for runs in ((a, b), (b, a)))
    opposite = {"better": "worse", "worse": "better", "not distinguishable": "not distinguishable"}
    assert back.verdict == opposite[there.verdict]
    assert there.paired.difference == -back.paired.difference
    assert (there.paired.low, there.paired.high) == pytest.approx((-back.paired.high, -back.paired.low), nan_ok=True)
    assert (there.bound_low, there.bound_high) == pytest.approx((-back.bound_high, -back.bound_low))
    assert there.paired.p_value == back.paired.p_value
    assert there.wilcoxon_p == pytest.approx(back.wilcoxon_p)
    assert (there.passes.gained, there.passes.lost) == (back.passes.lost, back.passes.gained)
    assert there.items_needed == back.items_needed


@settings(database=None, deadline=None, max_examples=30)
@given(pairs_of_scores, st.randoms(use_true_random=False))
def test_the_order_of_the_items_changes_nothing(rows: list[tuple[int | None, int | None]], shuffler: object) -> None:
    numbered = list(enumerate(rows))
    shuffled = numbered.copy()
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]

    def both(items: list[tuple[int, tuple[int | None, int | None]]]) -> Comparison:
        ids = tuple(f"{i}" for i, _ in items)
        a, b = (ItemScores(ids, tuple(row[side] for _, row in items)) for side in (0, 1))
        return compare_runs(a, b, seed=2, n_resamples=100)

    assert repr(both(numbered)) == repr(both(shuffled))


def test_wilcoxon_and_mcnemar_are_scipys() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 101, (2, 40)).astype(float)
    assert compare(a, b).wilcoxon_p == pytest.approx(scipy_stats.wilcoxon(b - a).pvalue)
    assert compare(a, a).wilcoxon_p == 1
    found = run_mcnemar(list(a), list(b), pass_mark=50)
    gained, lost = int(((a < 50) & (b >= 50)).sum()), int(((a >= 50) & (b < 50)).sum())
    assert (found.gained, found.lost) == (gained, lost)
    assert found.p_value == pytest.approx(scipy_stats.binomtest(gained, gained + lost).pvalue)
    assert run_mcnemar([0, 100], [10, 90]).p_value == 1


def test_the_pass_mark_is_passed_by_what_reaches_it() -> None:
    found = run_mcnemar([59, 60, 61], [60, 59, 62])
    assert (found.gained, found.lost) == (1, 1)


def test_holms_correction_is_the_textbook_one_and_keeps_the_order_given() -> None:
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_holm([0.6, 0.7]) == [1, 1]
    assert adjust_holm([0.2]) == [0.2]


def test_a_family_of_candidates_is_judged_together() -> None:
    rng = np.random.default_rng(8)
    base = rng.uniform(20, 80, size=40)
    candidates = {f"noise-{i}": run(base + rng.normal(0, 6, size=40)) for i in range(4)}
    candidates["good"] = run(base + 10 + rng.normal(0, 6, size=40))
    found = compare_family(run(base), candidates, seed=0, n_resamples=2000)
    assert found["good"].verdict == "better"
    alone = compare_runs(run(base), candidates["good"], seed=0, n_resamples=2000)
    assert found["good"].p_adjusted == pytest.approx(5 * alone.paired.p_value)
    # Five candidates: z(1 - 0.05/10) + z(0.8) in place of z(1 - 0.05/2) + z(0.8).
    assert found["good"].paired.minimum_detectable / alone.paired.minimum_detectable == pytest.approx(
        3.4175 / 2.8016, 1e-4
    )
    with pytest.raises(EvalConfigError, match="expected at least one candidate"):
        compare_family(run(base), {}, seed=0)


def test_a_borderline_candidate_among_many_is_not_claimed() -> None:
    rng = np.random.default_rng(21)
    base = rng.uniform(20, 80, size=40)
    close = run(base + 3 + rng.normal(0, 7.5, size=40))
    alone = compare_runs(run(base), close, seed=0)
    assert alone.verdict == "better"
    crowd = {"close": close} | {f"same-{i}": run(base + rng.normal(0, 5, size=40)) for i in range(9)}
    assert compare_family(run(base), crowd, seed=0)["close"].verdict == "not distinguishable"


def test_what_cannot_be_paired_is_refused_with_the_difference() -> None:
    with pytest.raises(UnpairableError, match="expected as many scores in both sets, got 3 and 2"):
        measure_paired_difference([1, 2, 3], [1, 2], seed=0)
    with pytest.raises(UnpairableError, match="no item is scored in both runs"):
        compare([None, 5], [5, None])


def test_the_two_models_of_the_real_scores_are_told_apart(real_scores: Callable[[str], list[float]]) -> None:
    found = compare(real_scores("gpt4-model-2"), real_scores("gpt4-model-1"), n_resamples=10_000)
    assert found.verdict == "better"
    assert found.paired.difference == pytest.approx(17.52)
    assert (found.passes.gained, found.passes.lost) == (22, 7)
    assert found.paired.minimum_detectable == pytest.approx(13.25, abs=0.01)
