"""A judge against people: the hard items apart, baselines beside it, pairs, and the decision to use it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eval.errors import EvalDataError, UnpairableError
from eval.exact import is_exact
from eval.stats import (
    AcceptanceThresholds,
    Calibration,
    Interval,
    ItemScores,
    PairwiseEvidence,
    accept,
    calibrate,
    measure_pair_agreement,
    score_baselines,
    validate,
)
from eval.testing.simulated import SimulatedJudge, build_answers, draw_truth, simulate_controls

N = 120
IDS = tuple(f"item-{i:03}" for i in range(N))


def scores(values: object) -> ItemScores:
    return ItemScores(IDS, tuple(None if np.isnan(v) else float(v) for v in values))  # type: ignore[attr-defined]


def calibrate_simulated(judge: SimulatedJudge, *, seed: int = 1, n_resamples: int = 300) -> Calibration:
    truth = draw_truth(N, seed=seed)
    words = np.random.default_rng(seed).uniform(0, 100, N)
    return calibrate(
        scores(judge.score(build_answers(truth, seed=seed))),
        scores(truth),
        baselines={"longest": scores(words), "exact_match": scores(np.where(truth == 100, 100, 0))},
        is_reference=dict(zip(IDS, truth == 100, strict=True)),
        seed=0,
        n_resamples=n_resamples,
    )


def good_controls() -> Any:
    return validate(simulate_controls(SimulatedJudge(3), seed=3), n_items=N, n_unscored=0)


def test_the_hard_items_are_reported_apart() -> None:
    found = calibrate_simulated(SimulatedJudge(1, scale="lenient"))
    assert found.judge_hard is not None
    assert found.judge_hard.n < found.judge.n == N
    # Whether an answer is the reference orders all items well, and the hard ones not at all.
    assert found.baselines["exact_match"].spearman.mean > 0.7
    assert math.isnan(found.baselines_hard["exact_match"].spearman.mean)
    assert abs(found.baselines["longest"].spearman.mean) < 0.2


def test_real_scores_of_a_small_judge_agree_less_on_the_answers_that_need_one(
    real_scores: Callable[[str], list[float]], real_items: list[dict[str, Any]]
) -> None:
    ids = tuple(f"{i:03}" for i in range(100))
    responses, references = ([row[key] for row in real_items] for key in ("model 1 response", "output"))
    baselines = {name: ItemScores(ids, tuple(v)) for name, v in score_baselines(responses, references).items()}
    found = calibrate(
        ItemScores(ids, tuple(real_scores("llama3-8b-model-1"))),
        ItemScores(ids, tuple(real_scores("gpt4-model-1"))),
        baselines=baselines,
        is_reference={name: is_exact(a, b) for name, a, b in zip(ids, responses, references, strict=True)},
        seed=1,
        n_resamples=500,
    )
    assert found.judge_hard is not None
    assert (found.judge.n, found.judge_hard.n) == (100, 42)
    assert found.judge_hard.spearman.mean < found.judge.spearman.mean == pytest.approx(0.698, abs=0.0005)
    assert found.judge_hard.spearman.mean > found.baselines_hard["token_f1"].spearman.mean
    assert found.baselines["exact_match"].spearman.mean > 0.8


def test_baselines_read_nothing() -> None:
    found = score_baselines(["The cat sat", "", "a dog  THE"], ["the cat sat", "x", "the big dog"])
    assert found["exact_match"] == [100, 0, 0]
    assert found["longest"] == [100, 0, pytest.approx(100 * 10 / 11)]
    assert found["token_f1"] == [100, 0, pytest.approx(100 * 2 / 3)]
    assert score_baselines([""], [""])["longest"] == [0]
    with pytest.raises(EvalDataError, match="expected one reference for each of 2 responses, got 1"):
        score_baselines(["a", "b"], ["a"])


def test_items_without_a_judges_score_are_counted_and_missing_labels_refused() -> None:
    truth = draw_truth(N, seed=1)
    holes = truth.copy()
    holes[:6] = np.nan
    arguments: dict[str, Any] = {"baselines": {}, "is_reference": dict.fromkeys(IDS, False), "seed": 0}
    found = calibrate(scores(holes), scores(truth), **arguments, n_resamples=20)
    assert found.unscored == 6 / N
    assert found.judge.n == N - 6
    with pytest.raises(EvalDataError, match="expected a score of labels for every item"):
        calibrate(scores(truth), scores(holes), **arguments)
    with pytest.raises(UnpairableError, match="the judge scored none of the labelled items"):
        calibrate(scores(np.full(N, np.nan)), scores(truth), **arguments)
    with pytest.raises(UnpairableError, match="expected the same items in both sets"):
        calibrate(scores(truth), ItemScores(("a",), (1,)), **arguments)


def test_in_pairs_a_judge_is_measured_beside_the_rule_that_longer_wins() -> None:
    people = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.5}
    judge = {"a": 1.0, "b": 0.0, "c": 0.5, "d": 1.0}
    lengths = {"a": 10.0, "b": 10.0, "c": -5.0, "d": 3.0}
    found = measure_pair_agreement(judge, people, length_differences=lengths, seed=0, n_resamples=50)
    assert found.judge.n == 3
    assert found.judge.mean == pytest.approx(2.5 / 3)
    assert found.longest.mean == pytest.approx(1 / 3)
    assert found.advantage.mean == pytest.approx(1.5 / 3)
    with pytest.raises(EvalDataError, match="people preferred an answer, got ties alone"):
        measure_pair_agreement({"a": 1.0}, {"a": 0.5}, length_differences={"a": 1.0}, seed=0)


def test_a_good_judge_is_accepted_and_every_demand_is_listed() -> None:
    found = accept(calibrate_simulated(SimulatedJudge(1)), controls=good_controls())
    assert found.accepted
    assert found.reasons == ()
    names = [check.name for check in found.checks]
    assert names[:4] == ["unscored", "spearman", "spearman_low", "pass_kappa"]
    assert {"identity_mean", "auc", "injection_uplift", "repeat_change"} <= set(names)
    assert "consistency" not in names
    assert found.beats_baselines == {"longest": True, "exact_match": True}


def test_a_judge_that_guesses_is_rejected_with_every_reason() -> None:
    guess = SimulatedJudge(1, reading_sd=400)
    controls = validate(simulate_controls(guess, seed=3), n_items=N, n_unscored=0)
    found = accept(calibrate_simulated(guess), controls=controls)
    assert not found.accepted
    assert any(reason.startswith("spearman ") and "must be >= 0.6" in reason for reason in found.reasons)
    assert any(reason.startswith("auc ") for reason in found.reasons)


def test_no_labels_accept_a_judge_whose_controls_never_ran() -> None:
    found = accept(calibrate_simulated(SimulatedJudge(1)), controls=None)
    assert not found.accepted
    assert found.reasons == ("controls 0, must be >= 1: no controls ran with these scores",)


def test_pairs_have_demands_of_their_own() -> None:
    sure = Interval(0.8, 0.72, 0.88, 100)
    evidence = PairwiseEvidence(
        agreement=measure_pair_agreement({"a": 1.0}, {"a": 1.0}, length_differences={"a": 1.0}, seed=0),
        consistency=sure,
    )
    evidence = replace(
        evidence, agreement=replace(evidence.agreement, judge=sure, longest=Interval(0.62, 0.5, 0.7, 100))
    )
    calibration, controls = calibrate_simulated(SimulatedJudge(1)), good_controls()
    assert accept(calibration, controls=controls, pairwise=evidence).accepted
    no_better = replace(evidence, agreement=replace(evidence.agreement, longest=Interval(0.75, 0.66, 0.83, 100)))
    found = accept(calibration, controls=controls, pairwise=no_better)
    assert [reason.split()[0] for reason in found.reasons] == ["pair_agreement_low"]
    swayed = replace(evidence, consistency=Interval(0.5, 0.4, 0.6, 100))
    found = accept(calibration, controls=controls, pairwise=swayed)
    assert found.reasons == ("consistency 0.5, must be >= 0.65: the order of answers decides",)
    assert accept(
        calibration, controls=controls, pairwise=swayed, thresholds=AcceptanceThresholds(min_consistency=0.5)
    ).accepted
