"""Each probe finds the fault it is there for, and leaves good judges alone.

Over 200 seeds: found in at least 90% of runs with the fault, and in at most 7% of runs without it. A fifth of the seeds
runs in every test run, with bounds as wide as so few allow; all of them run behind the marker ``statistics``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from eval.stats import (
    ItemScores,
    SwappedGames,
    compare_groups,
    fit_length_controlled_mean,
    fit_length_controlled_win_rate,
    measure_win_rate,
    validate,
)
from eval.testing.simulated import (
    USUAL_WORDS,
    SimulatedJudge,
    build_answers,
    draw_model_answers,
    draw_truth,
    simulate_controls,
)
from eval.trust import KNOWN_PAIRS, MIN_KNOWN_WON
from eval.types import ControlCounts

N_ITEMS = 110
MANY, UNSEEN = 100_000, 10**6

Probe = Callable[[SimulatedJudge, int], bool]
"""(judge, seed) -> whether it reports the fault."""


def ids(n: int) -> tuple[str, ...]:
    return tuple(f"{i:06}" for i in range(n))


def failing(check: str, *, counts: ControlCounts | None = None) -> Probe:
    """Whether one of the controls' checks fails; without a name, whether the run is invalid for any reason."""

    def probe(judge: SimulatedJudge, seed: int) -> bool:
        controls = simulate_controls(judge, seed=seed, **({"counts": counts} if counts else {}))
        scores = judge.score(build_answers(draw_truth(N_ITEMS, seed=seed)))
        found = validate(controls, n_items=N_ITEMS, n_unscored=int(np.isnan(scores).sum()))
        return any(one.name == check and not one.passed for one in found.checks) if check else not found.valid

    return probe


def place_decides(judge: SimulatedJudge, seed: int) -> bool:
    a, b = (draw_model_answers(N_ITEMS, seed=seed, number=i, skill=0.9) for i in (0, 1))
    first, second = judge.play(a, b)
    games = SwappedGames(ids(N_ITEMS), tuple(first), tuple(second))
    return measure_win_rate(games, seed=seed, n_resamples=100).slot_p <= 0.05


def loses_known_pairs(judge: SimulatedJudge, seed: int) -> bool:
    right = build_answers(np.full(KNOWN_PAIRS, 100.0), seed=seed)
    wrong = build_answers(
        np.random.default_rng(seed).uniform(0, 10, KNOWN_PAIRS), wording=np.ones(KNOWN_PAIRS, dtype=np.int64)
    )
    return float(np.mean(judge.play(right, wrong))) < MIN_KNOWN_WON


def length_decides_pairs(judge: SimulatedJudge, seed: int) -> bool:
    a, b = (draw_model_answers(N_ITEMS, seed=seed, number=i, skill=0.9, words=(10, 150)) for i in (0, 1))
    first, second = judge.play(a, b)
    games = SwappedGames(ids(N_ITEMS), tuple(first), tuple(second))
    longer = dict(zip(ids(N_ITEMS), a.words - b.words, strict=True))
    return fit_length_controlled_win_rate(games, longer, seed=seed, n_resamples=400).slope.low > 0


def length_decides_scores(judge: SimulatedJudge, seed: int) -> bool:
    """Two answers to each item, so that what the items bring cancels."""
    a, b = (draw_model_answers(N_ITEMS, seed=seed, number=i, skill=0.9, words=(10, 150)) for i in (0, 1))
    difference = judge.score(a) - judge.score(b)
    scores = ItemScores(ids(N_ITEMS), tuple(50 + difference / 2))
    longer = dict(zip(ids(N_ITEMS), a.words - b.words, strict=True))
    return fit_length_controlled_mean(scores, longer, seed=seed, n_resamples=400).slope.low > 0


def fails_on_some_kind_of_item(judge: SimulatedJudge, seed: int) -> bool:
    """Beside each item stands its overlap with the reference, which follows quality roughly."""
    truth = draw_truth(N_ITEMS, seed=seed)
    overlap = np.clip(truth + np.random.default_rng(seed).normal(0, 25, N_ITEMS), 0, 100)
    silent = np.isnan(judge.score(build_answers(truth)))
    if not silent.any():
        return False
    return compare_groups(list(overlap[silent]), list(overlap[~silent]), seed=seed, n_resamples=499).p_value <= 0.05


def prefers_its_own(judge: SimulatedJudge, seed: int) -> bool:
    """With people's labels of 100 answers, half of them by a model of the judge's family."""
    own = np.arange(100) % 2 == 0
    truth = draw_truth(100, seed=seed)
    beyond = judge.score(build_answers(truth, own=own)) - truth
    return compare_groups(list(beyond[own]), list(beyond[~own]), seed=seed, n_resamples=499).p_value <= 0.05


PROBES: dict[str, tuple[Probe, dict[str, object]]] = {
    "lenient": (failing("mismatch_mean"), {"scale": "lenient"}),
    "cannot tell": (failing("auc"), {"reading_sd": 150.0}),
    "obeys injections": (failing("injection_uplift"), {"obeys_injection": 0.3}),
    "likes padding": (failing("padding_uplift"), {"length_bias": 10.0}),
    "drifts": (failing("repeat_change"), {"drift": 10.0}),
    "wavers": (failing("repeat_change"), {"call_share": 0.5}),
    "fails": (failing("unscored"), {"failure_rate": 0.25}),
    "fails not at random": (fails_on_some_kind_of_item, {"failure_rate": 0.25}),
    "place decides": (place_decides, {"position_bias": 1.0}),
    "cannot tell pairs": (loses_known_pairs, {"reading_sd": 300.0}),
    "length decides pairs": (length_decides_pairs, {"length_bias": 20.0}),
    "length decides scores": (length_decides_scores, {"length_bias": 12.0}),
    "prefers its own": (prefers_its_own, {"self_preference": 10.0}),
}


@dataclass(frozen=True)
class Demand:
    """Over how many seeds, and with how much chance, a probe must find its fault."""

    n_seeds: int
    min_power: float
    max_false_alarm: float

    def rate(self, probe: Probe, **faults: object) -> float:
        found = [probe(SimulatedJudge(seed, **faults), seed) for seed in range(self.n_seeds)]  # type: ignore[arg-type]
        return float(np.mean(found))


SAMPLE, WHOLE = Demand(40, 0.8, 0.16), Demand(200, 0.9, 0.07)
demands = pytest.mark.parametrize(
    "demand", [pytest.param(SAMPLE, id="sample"), pytest.param(WHOLE, id="whole", marks=pytest.mark.statistics)]
)


@demands
@pytest.mark.parametrize("name", PROBES)
def test_each_probe_finds_its_fault_and_leaves_good_judges_alone(name: str, demand: Demand) -> None:
    probe, faults = PROBES[name]
    assert demand.rate(probe) <= demand.max_false_alarm
    assert demand.rate(probe, **faults) >= demand.min_power


@demands
@pytest.mark.parametrize("good", [{}, {"reading_sd": 4.0}, {"wording_share": 0.9}, {"call_share": 0.0}])
def test_a_run_with_a_good_judge_is_rarely_called_invalid_for_any_reason(
    good: dict[str, object], demand: Demand
) -> None:
    """Judges that read with an error of 8 or 4 points, and one whom nearly every wording leads to read anew."""
    assert demand.rate(failing(""), **good) <= demand.max_false_alarm


@pytest.mark.statistics
def test_fewer_controls_would_not_do() -> None:
    """With five of a kind a good judge is called invalid too often, and faults escape."""
    few = ControlCounts(identity=10, mismatch=10, empty=5, injection=5, padded=5, repeat=5)
    assert WHOLE.rate(failing("", counts=few)) > WHOLE.max_false_alarm
    assert WHOLE.rate(failing("injection_uplift", counts=few), obeys_injection=0.3) < WHOLE.min_power
    assert WHOLE.rate(failing("padding_uplift", counts=few), length_bias=10.0) < WHOLE.min_power


@pytest.mark.parametrize("bias", [0.5, 1.0, 2.0])
def test_swapping_removes_position_bias(bias: float) -> None:
    """The mean of both orders up to a bias of 1, where the first answer wins two games of three; place-free beyond."""
    a, b = (draw_model_answers(MANY, seed=UNSEEN, number=i, skill=skill) for i, skill in enumerate((1.0, 0.7)))
    judge = SimulatedJudge(UNSEEN, position_bias=bias)
    first, second = judge.play(a, b)
    truth = judge.compute_true_win_rate(a, b)
    assert first.mean() > truth + 0.05
    swapped = measure_win_rate(SwappedGames(ids(MANY), tuple(first), tuple(second)), seed=0, n_resamples=1)
    assert swapped.place_free.mean == pytest.approx(truth, abs=0.03)
    if bias <= 1:
        assert swapped.rate.mean == pytest.approx(truth, abs=0.03)
    else:
        assert swapped.first_slot.mean > 0.75
        assert swapped.rate.mean < truth - 0.03


def test_dropping_the_disagreements_instead_inflates_the_win_rate() -> None:
    a, b = (draw_model_answers(MANY, seed=UNSEEN, number=i, skill=skill) for i, skill in enumerate((1.0, 0.7)))
    judge = SimulatedJudge(UNSEEN, position_bias=1.0)
    first, second = judge.play(a, b)
    agreed = first == second
    assert first[agreed].mean() > judge.compute_true_win_rate(a, b) + 0.05


@pytest.mark.parametrize("bias", [10.0, 20.0])
def test_length_control_removes_length_bias(bias: float) -> None:
    """A is longer than B by half on average, and no better for it."""
    a = draw_model_answers(MANY, seed=UNSEEN, number=0, skill=0.9, words=(30, 150))
    b = draw_model_answers(MANY, seed=UNSEEN, number=1, skill=0.9, words=(10, 110))
    judge = SimulatedJudge(UNSEEN, length_bias=bias)
    first, second = judge.play(a, b)
    games = SwappedGames(ids(MANY), tuple(first), tuple(second))
    longer = dict(zip(ids(MANY), a.words - b.words, strict=True))
    found = fit_length_controlled_win_rate(games, longer, seed=0, n_resamples=1)
    truth = judge.compute_true_win_rate(a, b)
    assert found.raw.mean > truth + 0.03
    assert found.controlled.mean == pytest.approx(truth, abs=0.01)
    scores = ItemScores(ids(MANY), tuple(judge.score(a)))
    beyond = dict(zip(ids(MANY), a.words - USUAL_WORDS, strict=True))
    controlled = fit_length_controlled_mean(scores, beyond, seed=0, n_resamples=1).controlled.mean
    unbiased = float(replace(judge, length_bias=0.0).score(a).mean())
    assert abs(controlled - unbiased) < 0.2 * abs(float(judge.score(a).mean()) - unbiased)


def test_dropped_failures_raise_the_mean_and_the_bounds_still_hold_the_truth() -> None:
    truth = draw_truth(MANY, seed=UNSEEN)
    judge = SimulatedJudge(UNSEEN, failure_rate=0.2)
    scores = judge.score(build_answers(truth))
    complete = float(replace(judge, failure_rate=0.0).score(build_answers(truth)).mean())
    assert np.nanmean(scores) > complete + 2
    assert np.where(np.isnan(scores), 0, scores).mean() <= complete <= np.where(np.isnan(scores), 100, scores).mean()
