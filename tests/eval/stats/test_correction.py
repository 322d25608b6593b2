"""The mean corrected by people's labels: against the formula, on simulated judges and on real scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from eval.errors import EvalDataError, UnpairableError
from eval.stats import CorrectedMean, ItemScores, correct_mean
from eval.testing.simulated import SimulatedJudge, build_answers, draw_truth

IDS = tuple(f"{i:03}" for i in range(110))


def correct(judge: np.ndarray, truth: np.ndarray, labelled: np.ndarray) -> CorrectedMean:
    ids = tuple(f"{i:03}" for i in range(len(judge)))
    return correct_mean(ItemScores(ids, tuple(judge)), {ids[i]: float(truth[i]) for i in labelled})


def test_the_estimate_is_the_formula_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    truth = draw_truth(110, seed=1)
    judge = SimulatedJudge(1, scale="lenient").score(build_answers(truth))
    labelled = rng.choice(110, 40, replace=False)
    rest = np.setdiff1d(np.arange(110), labelled)
    found = correct(judge, truth, labelled)
    y, f, u = truth[labelled], judge[labelled], judge[rest]
    assert 0 < found.weight < 1
    assert found.weight == pytest.approx(np.cov(y, f)[0, 1] / ((1 + 40 / 70) * f.var(ddof=1)))
    assert found.corrected.mean == pytest.approx(y.mean() + found.weight * (u.mean() - f.mean()))
    assert found.corrected.n == 40
    assert found.judge.n == 110


def test_a_judge_that_knows_all_narrows_most_and_one_that_knows_nothing_not_at_all() -> None:
    truth = draw_truth(110, seed=3)
    labelled = np.arange(0, 110, 3)
    perfect = correct(truth, truth, labelled)
    constant = correct(np.full(110, 70.0), truth, labelled)
    assert perfect.corrected.high - perfect.corrected.low < 0.8 * (perfect.labels_only.high - perfect.labels_only.low)
    assert constant.weight == 0
    assert vars(constant.corrected) == pytest.approx(vars(constant.labels_only))
    assert correct(100 - truth, truth, labelled).weight == 0


def test_labels_of_all_items_need_no_judge() -> None:
    truth = draw_truth(40, seed=3)
    found = correct(np.full(40, 5.0), truth, np.arange(40))
    assert found.corrected == found.labels_only
    assert found.corrected.mean == pytest.approx(truth.mean())


def test_on_real_scores_thirty_labels_find_the_mean_that_the_judge_alone_misses(
    real_scores: Callable[[str], list[float]],
) -> None:
    """GPT-4 as the person; Llama 3 8B's scores of the same answers, lowered by ten points, as a biased judge."""
    truth = np.array(real_scores("gpt4-model-1"))
    judge = np.clip(np.array(real_scores("llama3-8b-model-1")) - 10, 0, 100)
    rng = np.random.default_rng(0)
    draws = [correct(judge, truth, rng.choice(100, 30, replace=False)) for _ in range(300)]

    def coverage(kind: str) -> float:
        return float(np.mean([getattr(one, kind).low <= truth.mean() <= getattr(one, kind).high for one in draws]))

    def width(kind: str) -> float:
        return float(np.mean([getattr(one, kind).high - getattr(one, kind).low for one in draws]))

    assert coverage("judge") == 0
    assert coverage("corrected") >= 0.93
    assert width("corrected") < 0.75 * width("labels_only")


def test_too_few_and_foreign_labels_are_refused() -> None:
    scores = ItemScores(IDS, tuple([50.0] * 109 + [None]))
    with pytest.raises(
        EvalDataError, match=r"expected labels of at least 30 scored items .*, got 29; label more items"
    ):
        correct_mean(scores, dict.fromkeys([*IDS[:29], IDS[109]], 1.0))
    with pytest.raises(UnpairableError, match="got 1 of items that the run does not have, such as 'zz'"):
        correct_mean(scores, dict.fromkeys([*IDS[:40], "zz"], 1.0))
    assert correct_mean(scores, dict.fromkeys(IDS[:40], 1.0)).n_unscored == 1
