"""Why a chain is trained, or is not: a pure function of what a check finds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flows.retraining.drift import Drift
from flows.retraining.policy import RetrainPolicy
from flows.retraining.situation import EarlierGate, Situation, why

POLICY = RetrainPolicy()
GROWN = Situation(
    "m", "k2", champion=1, champion_key="k1", champion_days=3.0, last=1, new_files=1, new_characters=500, new_rows={}
)
TRIED = EarlierGate(2, "reject", "no better", against=1, rolled_back="", again=False)
UNLIKE = Drift(0.5, 0.001, 0.1, 0.5, 0.0, 1.0, 30, 30, ("bits per byte +50.0% (p 0.001)",))
LIKE = replace(UNLIKE, reasons=())


@pytest.mark.parametrize(
    ("found", "cause", "text"),
    [
        (Situation("m", "k1"), "first", "m has no version yet"),
        (replace(GROWN, settings_changed=True), "settings", "differ from those of version 1"),
        (replace(GROWN, sources_changed=("numpy",)), "sources", "numpy"),
        (replace(GROWN, removed_files=2), "data_removed", "2 added file(s)"),
        (replace(GROWN, new_files=0), "code", "newer than version 1"),
        (replace(GROWN, new_characters=20_000), "new_data", "20,000 new characters"),
        (replace(GROWN, new_rows={"labelled": 40, "instructions": 60}), "new_data", "100 new rows"),
        (replace(GROWN, champion_days=31.0), "stale", "31 days old (at most 30)"),
        (replace(GROWN, drift=UNLIKE), "drift", "bits per byte +50.0%"),
        (replace(GROWN, tried=replace(TRIED, verdict="")), "unfinished", "was not compared yet"),
        (replace(GROWN, tried=replace(TRIED, verdict="promote")), "unfinished", "is not champion yet"),
        (replace(GROWN, tried=replace(TRIED, against=None)), "new_champion", "another champion than version 1"),
        (replace(GROWN, tried=replace(TRIED, verdict="inconclusive", again=True)), "judge_again", "no better"),
    ],
)
def test_reasons_to_train(found: Situation, cause: str, text: str) -> None:
    reason = why(found, POLICY)
    assert (reason.run, reason.cause) == (True, cause)
    assert text in reason.text


@pytest.mark.parametrize(
    ("found", "cause", "text"),
    [
        (replace(GROWN, key="k1"), "unchanged", "nothing has changed since version 1"),
        (replace(GROWN, tried=TRIED), "decided", "compared with champion 1 before: reject, no better"),
        (replace(GROWN, tried=replace(TRIED, verdict="needs_approval")), "waits", "gptworks promote 2 --reason"),
        (replace(GROWN, tried=replace(TRIED, rolled_back="bad prices")), "rolled_back", "rolled back: bad prices"),
        (GROWN, "too_little", "only 500 new characters and 0 new rows since version 1 (needed: 20,000 characters"),
        (replace(GROWN, drift=LIKE), "too_little", "no drift from the champion's data"),
    ],
)
def test_reasons_not_to_train(found: Situation, cause: str, text: str) -> None:
    reason = why(found, POLICY)
    assert (reason.run, reason.cause) == (False, cause)
    assert text in reason.text


def test_force_passes_over_thresholds_and_earlier_gates_but_trains_no_equal_model() -> None:
    assert why(replace(GROWN, tried=replace(TRIED, rolled_back="x")), POLICY, force=True).cause == "forced"
    assert why(GROWN, POLICY, force=True).run
    assert not why(replace(GROWN, key="k1"), POLICY, force=True).run


def test_a_run_that_is_taken_up_again_goes_on_with_its_version() -> None:
    waiting = replace(GROWN, tried=replace(TRIED, verdict="needs_approval"))
    assert why(waiting, POLICY, resumed=True).cause == "resumed"
    assert why(replace(waiting, champion=2, champion_key="k2"), POLICY, resumed=True).cause == "unchanged"


def test_age_can_be_switched_off() -> None:
    assert not why(replace(GROWN, champion_days=400.0), RetrainPolicy(max_age_days=None)).run
