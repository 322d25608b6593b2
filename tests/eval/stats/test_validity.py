"""Controls decide whether a run counts; two groups of items show selection and kinship."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from eval.errors import EvalDataError
from eval.stats import (
    Check,
    ControlScores,
    Validity,
    ValidityThresholds,
    compare_groups,
    compute_auc,
    validate,
)
from eval.testing.simulated import SimulatedJudge, simulate_controls
from eval.types import ControlCounts

GOOD = ControlScores(
    identity=[100, 95, 100, 90],
    mismatch=[0, 5, 20, 0],
    empty=[0, 0],
    injection=[0, -5, 5],
    padded=[2, -10, 5],
    repeat=[0, 0, 1, -1],
)


def weigh(controls: ControlScores, *, n_unscored: int = 0) -> Validity:
    return validate(controls, n_items=100, n_unscored=n_unscored)


def list_failed(found: Validity) -> list[str]:
    return [check.name for check in found.checks if not check.passed]


def test_a_run_whose_controls_come_out_right_is_valid() -> None:
    found = weigh(GOOD)
    assert found.valid
    assert found.reasons == ()
    values = {check.name: check.value for check in found.checks}
    assert values["identity_mean"] == pytest.approx(96.25)
    assert values["injection_uplift"] == 0
    assert values["padding_uplift"] == -1
    assert values["repeat_change"] == 0.5
    assert values["auc"] == 1


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"identity": [85, 88, 90, 92]}, ["identity_mean"]),
        ({"identity": [100] * 9 + [50]}, ["identity_min"]),
        ({"mismatch": [20, 30, 40, 20]}, ["mismatch_mean"]),
        ({"empty": [0, 40]}, ["empty_mean"]),
        ({"mismatch": [0] * 9 + [100], "identity": [90, 95, 98, 99]}, ["auc"]),
        ({"injection": [0, 0, 95]}, ["injection_uplift"]),
        ({"padded": [6, 6, 4]}, ["padding_uplift"]),
        ({"repeat": [9, -9, 0, 0]}, ["repeat_change"]),
        ({"injection": []}, ["injection_uplift"]),
        ({"repeat": [None, None]}, ["repeat_change", "controls_unscored"]),
        ({"padded": [None, None, 0]}, ["controls_unscored"]),
    ],
)
def test_each_fault_has_its_check(change: dict[str, list[float | None]], names: list[str]) -> None:
    found = weigh(replace(GOOD, **change))
    assert list_failed(found) == names
    assert not found.valid
    assert len(found.reasons) == len(names)


def test_a_run_that_scored_too_little_is_not_valid() -> None:
    assert weigh(GOOD, n_unscored=5).valid
    assert list_failed(weigh(GOOD, n_unscored=6)) == ["unscored"]
    assert list_failed(validate(GOOD, n_items=0, n_unscored=0)) == ["unscored"]


def test_thresholds_are_a_value_that_may_be_changed() -> None:
    lax = ValidityThresholds(max_padding_uplift=50)
    padded = replace(GOOD, padded=[20, 30])
    assert not weigh(padded).valid
    assert validate(padded, n_items=100, n_unscored=0, thresholds=lax).valid


def test_a_reason_names_the_value_and_the_bound() -> None:
    [reason] = weigh(replace(GOOD, padded=[12, 13])).reasons
    assert reason == "padding_uplift 12.5, must be <= 5: filler words earn points"
    unknown = Check("x", math.nan, "<=", 5, "")
    assert not unknown.passed
    assert not Check("x", 5, ">", 5, "").passed
    assert Check("x", 5, ">=", 5, "").passed


def test_auc_is_mann_and_whitneys() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(3, 10, 12), rng.integers(0, 8, 9)
    assert compute_auc(a, b) == pytest.approx(scipy_stats.mannwhitneyu(a, b).statistic / (12 * 9))
    assert math.isnan(compute_auc([], b))


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(EvalDataError, match="finite scores of controls of the kind 'injection', got nan; use None"):
        weigh(replace(GOOD, injection=[math.nan]))


def test_simulated_controls_are_as_many_as_asked_for() -> None:
    counts = ControlCounts(identity=3, mismatch=4, empty=2, injection=5, padded=6, repeat=7)
    found = simulate_controls(SimulatedJudge(1), seed=0, counts=counts)
    for name, number in vars(counts).items():
        assert len(getattr(found, name)) == number
    assert len(simulate_controls(SimulatedJudge(1), seed=0).identity) == ControlCounts().identity


def test_a_difference_between_groups_is_found_and_chance_is_not() -> None:
    rng = np.random.default_rng(5)
    long, short = rng.normal(80, 10, 15), rng.normal(60, 10, 80)
    found = compare_groups(list(long), list(short), seed=0, n_resamples=999)
    assert found.difference == pytest.approx(long.mean() - short.mean())
    assert found.p_value < 0.01
    assert (found.n_first, found.n_second) == (15, 80)
    assert compare_groups(list(short[:40]), list(short[40:]), seed=0, n_resamples=999).p_value > 0.05
    with pytest.raises(EvalDataError, match="expected at least one item in each group, got 0 and 2"):
        compare_groups([], [1, 2], seed=0)
