"""Coverage of the intervals of scores, labels and agreement, and the size and power of the tests of two runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as scipy_stats

from eval.stats import (
    Interval,
    ItemScores,
    bootstrap_mean,
    compare_family,
    compare_runs,
    compute_student_interval,
    correct_mean,
    measure_pair_agreement,
    measure_paired_difference,
    measure_panel_agreement,
    report_agreement,
)
from eval.stats.permutation import compute_sign_flip_p
from eval.testing.simulated import SimulatedJudge, build_answers, draw_model_answers, draw_truth

RESAMPLES = 500
MANY = 100_000
UNSEEN = 10**6
"""A seed that no scenario draws."""

NotCovered = Callable[..., dict[str, float]]


def ids(n: int) -> tuple[str, ...]:
    return tuple(f"{i:06}" for i in range(n))


def judge(seed: int) -> SimulatedJudge:
    """Few values, and the skewed scores of Llama 3 8B."""
    return SimulatedJudge(seed, scale="lenient")


def one_run(seed: int, n: int) -> dict[str, Interval]:
    scores = list(judge(seed).score(build_answers(draw_truth(n, seed=seed))))
    bootstrap = bootstrap_mean(scores, seed=seed, n_resamples=RESAMPLES)
    return {"bootstrap": bootstrap, "student": compute_student_interval(scores)}


@pytest.mark.parametrize("n_items", [30, 110])
def test_intervals_of_a_mean_hold(n_items: int, not_covered: NotCovered) -> None:
    mean = float(judge(UNSEEN).score(build_answers(draw_truth(MANY, seed=UNSEEN))).mean())
    assert not_covered(one_run, {"bootstrap": mean, "student": mean}, n_items=n_items) == {}


def two_runs(seed: int, n: int) -> dict[str, Interval]:
    a, b = (judge(seed).score(draw_model_answers(n, seed=seed, number=i, skill=s)) for i, s in enumerate((0.8, 0.95)))
    found = measure_paired_difference(list(a), list(b), seed=seed, n_resamples=RESAMPLES)
    return {"difference": Interval(found.difference, found.low, found.high, found.n)}


@pytest.mark.parametrize("n_items", [30, 110])
def test_intervals_of_a_paired_difference_hold(n_items: int, not_covered: NotCovered) -> None:
    a, b = (
        judge(UNSEEN).score(draw_model_answers(MANY, seed=UNSEEN, number=i, skill=s)) for i, s in enumerate((0.8, 0.95))
    )
    assert not_covered(two_runs, {"difference": float((b - a).mean())}, n_items=n_items) == {}


def labels(seed: int, n: int) -> dict[str, Interval]:
    truth = draw_truth(n, seed=seed)
    labelled = np.random.default_rng([seed, 3]).choice(n, 30, replace=False)
    scores = ItemScores(ids(n), tuple(judge(seed).score(build_answers(truth))))
    found = correct_mean(scores, {ids(n)[i]: float(truth[i]) for i in labelled})
    return {"corrected": found.corrected, "labels only": found.labels_only}


def test_intervals_of_a_corrected_mean_hold(not_covered: NotCovered) -> None:
    mean = float(draw_truth(MANY, seed=UNSEEN).mean())
    assert not_covered(labels, {"corrected": mean, "labels only": mean}, n_items=110) == {}


def raters(seed: int, n: int) -> dict[str, Interval]:
    truth = draw_truth(n, seed=seed)
    scores = judge(seed).score(build_answers(truth))
    found = vars(report_agreement(list(scores), list(truth), seed=seed, n_resamples=RESAMPLES))
    return {name: interval for name, interval in found.items() if name != "n"}


def true_agreement() -> dict[str, float]:
    """By scipy, and by the definition of kappa: disagreement over that of independent raters."""
    truth = draw_truth(MANY, seed=UNSEEN)
    scores = judge(UNSEEN).score(build_answers(truth))
    found = {
        "pearson": scipy_stats.pearsonr(scores, truth).statistic,
        "spearman": scipy_stats.spearmanr(scores, truth).statistic,
        "kendall": scipy_stats.kendalltau(scores, truth).statistic,
    }
    for kappa, same, (a, b) in (
        ("kappa", "same_anchor", [np.floor(x / 20 + 0.5) for x in (scores, truth)]),
        ("pass_kappa", "same_side", [(x >= 60).astype(float) for x in (scores, truth)]),
    ):
        found[same] = (a == b).mean()
        found[kappa] = 1 - ((a - b) ** 2).mean() / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("n_items", [60, 100])
def test_intervals_of_agreement_hold(n_items: int, not_covered: NotCovered) -> None:
    assert not_covered(raters, true_agreement(), n_items=n_items) == {}


def panel(seed: int, n: int) -> dict[str, Interval]:
    given = build_answers(draw_truth(n, seed=seed))
    judges = {f"{i}": ItemScores(ids(n), tuple(judge(3 * seed + i).score(given))) for i in range(3)}
    return {"alpha": measure_panel_agreement(judges, seed=seed, n_resamples=RESAMPLES if n < MANY else 1).alpha}


def test_intervals_of_a_panels_alpha_hold(not_covered: NotCovered) -> None:
    given = build_answers(draw_truth(MANY, seed=UNSEEN))
    scores = np.stack([judge(UNSEEN + i).score(given) for i in range(3)])
    # With no value missing and many items, alpha is one less the share of the variance that lies within items.
    alpha = 1 - float(scores.var(axis=0, ddof=1).mean() / scores.var())
    assert not_covered(panel, {"alpha": alpha}, n_items=80) == {}


def preferences(seed: int, n: int) -> dict[str, Interval]:
    a, b = (draw_model_answers(n, seed=seed, number=i, skill=0.9) for i in (0, 1))
    people = np.where(a.truth > b.truth + 5, 1.0, np.where(b.truth > a.truth + 5, 0.0, 0.5))
    by_judge = np.mean(SimulatedJudge(seed, length_bias=10).play(a, b), axis=0)
    weights = (dict(zip(ids(n), (float(x) for x in values), strict=True)) for values in (by_judge, people))
    longer = dict(zip(ids(n), a.words - b.words, strict=True))
    found = measure_pair_agreement(
        *weights, length_differences=longer, seed=seed, n_resamples=RESAMPLES if n < MANY else 1
    )
    return {"judge": found.judge, "longest": found.longest, "advantage": found.advantage}


def test_intervals_of_agreement_in_pairs_hold(not_covered: NotCovered) -> None:
    truth = {name: interval.mean for name, interval in preferences(UNSEEN, MANY).items()}
    assert not_covered(preferences, truth, n_items=80) == {}


@pytest.mark.statistics
def test_the_permutation_test_errs_as_often_as_its_level() -> None:
    """Scores of two runs of equal models: ties, zeros and few values included."""
    n_draws = 6000
    rejected = 0
    for seed in range(n_draws):
        a, b = (judge(seed).score(draw_model_answers(40, seed=seed, number=i, skill=0.9)) for i in (0, 1))
        rejected += compute_sign_flip_p(b - a, seed=seed, n_resamples=999) <= 0.05
    assert 0.04 <= rejected / n_draws <= 0.06


@pytest.mark.statistics
def test_verdicts_on_equal_models_err_at_most_as_often_as_their_level_alone_and_in_a_family() -> None:
    n_draws = 1500
    alone, family = 0, 0
    for seed in range(n_draws):
        runs = [
            ItemScores(ids(40), tuple(judge(seed).score(draw_model_answers(40, seed=seed, number=i, skill=0.9))))
            for i in range(5)
        ]
        found = compare_family(runs[0], dict(zip("abcd", runs[1:], strict=True)), seed=seed, n_resamples=499)
        family += any(one.verdict != "not distinguishable" for one in found.values())
        alone += found["a"].paired.p_value <= 0.05
    assert 0.035 <= alone / n_draws <= 0.065
    assert family / n_draws <= 0.06


@pytest.mark.statistics
def test_the_minimum_detectable_difference_is_detected_four_times_in_five() -> None:
    rng = np.random.default_rng(1)
    n, sd = 110, 12.0
    detectable = 2.8016 * sd / np.sqrt(n)
    found = 0
    for seed in range(1000):
        base = rng.uniform(30, 60, n)
        better = base + detectable + rng.normal(0, sd, n)
        runs = (ItemScores(ids(n), tuple(np.clip(x, 0, 100))) for x in (base, better))
        found += compare_runs(*runs, seed=seed, n_resamples=499).verdict == "better"
    assert 0.75 <= found / 1000 <= 0.85
