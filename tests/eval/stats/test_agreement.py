"""Agreement against scipy, scikit-learn, published examples and real scores."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.metrics import cohen_kappa_score

from eval.errors import EvalConfigError, UnpairableError
from eval.stats import (
    ItemScores,
    measure_agreement,
    measure_paired_difference,
    measure_panel_agreement,
    report_agreement,
)

FIGURES = ("same_anchor", "kappa", "same_side", "pass_kappa", "pearson", "spearman", "kendall")
two_raters = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=3, max_size=30)


def test_real_scores_of_two_judges_reproduce_the_published_agreement(
    real_scores: Callable[[str], list[float]],
) -> None:
    found = measure_agreement(real_scores("gpt4-model-1"), real_scores("llama3-8b-model-1"))
    assert found.n == 100
    assert found.pearson == pytest.approx(0.805, abs=0.0005)
    assert found.spearman == pytest.approx(0.698, abs=0.0005)
    assert found.kendall == pytest.approx(0.573, abs=0.0005)


def test_real_scores_agree_within_the_intervals_that_the_design_rests_on(
    real_scores: Callable[[str], list[float]],
) -> None:
    found = report_agreement(real_scores("llama3-8b-model-1"), real_scores("gpt4-model-1"), seed=1, pass_mark=50)
    assert (found.spearman.low, found.spearman.high) == (pytest.approx(0.58, abs=0.02), pytest.approx(0.79, abs=0.02))
    assert found.same_side.mean == pytest.approx(0.90, abs=0.005)
    assert found.pass_kappa.mean == pytest.approx(0.71, abs=0.005)


def test_a_real_set_that_lost_a_score_cannot_be_paired(real_scores: Callable[[str], list[float]]) -> None:
    whole, short = real_scores("gpt4-model-2"), real_scores("llama3-8b-model-2")
    with pytest.raises(
        UnpairableError, match="expected as many scores in both sets, got 100 and 99: where one was dropped"
    ):
        measure_agreement(whole, short)
    with pytest.raises(UnpairableError, match="got 99 and 100"):
        measure_paired_difference(short, whole, seed=0)
    with pytest.raises(UnpairableError, match="expected 100 scores, one for each id, got 99; keep every item"):
        ItemScores(tuple(f"{i}" for i in range(100)), tuple(short))


@settings(database=None, deadline=None, max_examples=60)
@given(two_raters)
def test_every_figure_is_that_of_scipy_or_scikit_learn(rows: list[tuple[int, int]]) -> None:
    a, b = (np.array(side) for side in zip(*rows, strict=True))
    found = report_agreement(list(a), list(b), seed=0, n_resamples=20)
    if np.ptp(a) and np.ptp(b):
        assert found.pearson.mean == pytest.approx(scipy_stats.pearsonr(a, b).statistic)
        assert found.spearman.mean == pytest.approx(scipy_stats.spearmanr(a, b).statistic)
        assert found.kendall.mean == pytest.approx(scipy_stats.kendalltau(a, b).statistic)
    anchors = [np.floor(x / 20 + 0.5).astype(int) for x in (a, b)]
    assert found.same_anchor.mean == pytest.approx((anchors[0] == anchors[1]).mean())
    if len(set(anchors[0]) | set(anchors[1])) > 1:
        wanted = cohen_kappa_score(*anchors, weights="quadratic", labels=range(6))
        assert found.kappa.mean == pytest.approx(wanted)
    passes = [x >= 60 for x in (a, b)]
    if len(set(passes[0]) | set(passes[1])) > 1:
        assert found.pass_kappa.mean == pytest.approx(cohen_kappa_score(*passes))
    assert found.same_side.mean == pytest.approx((passes[0] == passes[1]).mean())


def test_resampled_figures_are_those_of_the_resampled_items() -> None:
    """The intervals rest on counts; here each resample is written out and put to scipy."""
    from eval.stats.agreement import build_agreement_statistic
    from eval.stats.bootstrap import draw_counts

    rng = np.random.default_rng(3)
    a = rng.choice([0.0, 20, 80, 100], 25)
    b = np.clip(a + rng.integers(-30, 30, 25), 0, 100)
    statistic = build_agreement_statistic(a, b, pass_mark=60)
    [counts] = draw_counts(25, seed=1, n_resamples=40)
    for row, values in zip(counts, statistic(counts), strict=True):
        taken = np.repeat(np.arange(25), row.astype(int))
        assert values[4] == pytest.approx(scipy_stats.pearsonr(a[taken], b[taken]).statistic)
        assert values[5] == pytest.approx(scipy_stats.spearmanr(a[taken], b[taken]).statistic)
        assert values[6] == pytest.approx(scipy_stats.kendalltau(a[taken], b[taken]).statistic)
        assert values[3] == pytest.approx(cohen_kappa_score(a[taken] >= 60, b[taken] >= 60))


@settings(database=None, deadline=None, max_examples=40)
@given(two_raters)
def test_agreement_is_the_same_seen_from_either_rater(rows: list[tuple[int, int]]) -> None:
    a, b = zip(*rows, strict=True)
    there, back = (report_agreement(*sides, seed=1, n_resamples=30) for sides in ((a, b), (b, a)))
    for name in FIGURES:
        one, other = getattr(there, name), getattr(back, name)
        assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high), nan_ok=True)


def test_a_rater_of_one_value_agrees_with_nothing_by_no_number() -> None:
    found = measure_agreement([1, 2, 3], [50, 50, 50])
    assert all(math.isnan(value) for value in (found.pearson, found.spearman, found.kendall))
    report = report_agreement([1, 2, 3], [50, 50, 50], seed=0, n_resamples=50)
    assert math.isnan(report.spearman.mean)
    assert (report.spearman.low, report.spearman.high) == (-1, 1)
    assert (report.same_side.low, report.same_side.high) == (1, 1)


def test_there_is_nothing_to_agree_on_without_scores() -> None:
    with pytest.raises(UnpairableError, match="expected scores to pair, got two empty sets"):
        measure_agreement([], [])


# Four observers, twelve units: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".
PANEL = {
    "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
}


def panel(scores: dict[str, list[int | None]]) -> dict[str, ItemScores]:
    ids = tuple(f"item-{i:02}" for i in range(12))
    return {name: ItemScores(ids, tuple(values)) for name, values in scores.items()}


def test_alpha_is_that_of_the_published_example() -> None:
    found = measure_panel_agreement(panel(PANEL), seed=0, n_resamples=300)
    assert found.alpha.mean == pytest.approx(0.849, abs=0.0005)
    assert found.alpha.low < found.alpha.mean < found.alpha.high <= 1
    assert len(found.pairwise) == 6
    assert found.pairwise["A", "B"].n == 9
    assert found.mean_spearman == pytest.approx(np.mean([one.spearman.mean for one in found.pairwise.values()]))


def test_judges_that_always_agree_have_an_alpha_of_one() -> None:
    assert measure_panel_agreement(panel({"A": PANEL["B"], "B": PANEL["B"]}), seed=0, n_resamples=50).alpha.mean == 1


def test_a_panel_takes_two_judges_of_the_same_items() -> None:
    with pytest.raises(EvalConfigError, match="expected a panel of at least two judges, got 1"):
        measure_panel_agreement({"A": panel(PANEL)["A"]}, seed=0)
    with pytest.raises(UnpairableError, match="expected the same items in both sets"):
        measure_panel_agreement({"A": panel(PANEL)["A"], "B": ItemScores(("x",), (1,))}, seed=0)
    with pytest.raises(UnpairableError, match="judges 'A' and 'B' scored no item in common"):
        measure_panel_agreement(panel({"A": [None] * 6 + [1] * 6, "B": [1] * 6 + [None] * 6}), seed=0)
