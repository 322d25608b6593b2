"""Reports: every item counted, nothing dropped, the bounds beside the mean."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.errors import EvalConfigError, EvalDataError
from eval.run import join_panel_scores, judge_responses, score_responses
from eval.types import UNSCORED_REASONS, Progress, Sample, UnscoredReason, Verdict


def items(n: int) -> list[Sample]:
    return [Sample(f"item-{i}", f"Do thing {i}", "", f"thing {i} is done") for i in range(n)]


class Scripted:
    """A judge that says what it is told to: a score, or a reason for none."""

    def __init__(self, outcomes: Mapping[str, int | UnscoredReason]) -> None:
        self.outcomes = outcomes
        self.asked: list[tuple[str, str, bool, int]] = []

    def __call__(self, sample: Sample, response: str, *, shortcut: bool = True, repeat: int = 0) -> Verdict:
        self.asked.append((sample.id, response, shortcut, repeat))
        outcome = self.outcomes[sample.id]
        if isinstance(outcome, int):
            return Verdict(outcome, "because", None, "raw", 0.5)
        return Verdict(None, "", outcome, "", 0.5, detail="it broke")

    def describe(self) -> dict[str, Any]:
        return {"mode": "scripted"}


def test_overlap_report_has_a_row_per_item_and_the_library_figures() -> None:
    samples = items(3)
    report = score_responses(samples, ["Thing 0 is DONE", "thing 1", ""])
    assert report.metrics["test/exact_match"] == pytest.approx(1 / 3)
    assert report.metrics["test/rouge_l"] == pytest.approx((1 + 2 * (1 * 0.5) / 1.5 + 0) / 3)
    assert 0 < report.metrics["test/chrf"] < 100
    assert report.metrics["test/empty"] == pytest.approx(1 / 3)
    assert [row["id"] for row in report.rows] == ["item-0", "item-1", "item-2"]
    assert [row["exact_match"] for row in report.rows] == [True, False, False]
    assert json.loads(json.dumps(report.rows)) == report.rows


def test_an_unscored_item_is_counted_with_its_reason_and_never_a_zero() -> None:
    judge = Scripted({"item-0": 80, "item-1": "timeout", "item-2": 40, "item-3": "schema"})
    report = judge_responses(items(4), ["x"] * 4, judge=judge)
    metrics = report.metrics
    assert metrics["judge/mean"] == 60
    assert metrics["judge/scored"] == 2
    assert metrics["judge/unscored"] == 2
    assert metrics["judge/unscored_timeout"] == metrics["judge/unscored_schema"] == 1
    assert sum(metrics[f"judge/unscored_{reason}"] for reason in UNSCORED_REASONS) == 2
    assert metrics["judge/bound_low"] == 120 / 4
    assert metrics["judge/bound_high"] == 320 / 4
    assert metrics["judge/ci_low"] <= 60 <= metrics["judge/ci_high"]
    assert metrics["judge/seconds_per_item"] == 0.5
    assert [row["score"] for row in report.rows] == [80, None, 40, None]
    assert [row["reason"] for row in report.rows] == [None, "timeout", None, "schema"]
    assert report.rows[1]["detail"] == "it broke"


@settings(database=None, deadline=None, max_examples=40)
@given(
    st.lists(st.one_of(st.integers(0, 100), st.sampled_from(UNSCORED_REASONS)), min_size=1, max_size=12),
    st.sampled_from(UNSCORED_REASONS),
)
def test_one_more_failure_never_raises_the_lower_bound(
    outcomes: list[int | UnscoredReason], reason: UnscoredReason
) -> None:
    def report(all_outcomes: list[int | UnscoredReason]) -> dict[str, float]:
        samples = items(len(all_outcomes))
        judge = Scripted({sample.id: outcome for sample, outcome in zip(samples, all_outcomes, strict=True)})
        return judge_responses(samples, ["x"] * len(samples), judge=judge).metrics

    before, after = report(outcomes), report([*outcomes, reason])
    assert before["judge/scored"] + before["judge/unscored"] == len(outcomes)
    assert after["judge/unscored"] == before["judge/unscored"] + 1
    assert after["judge/bound_low"] <= before["judge/bound_low"]
    if before["judge/scored"]:
        assert after["judge/mean"] == before["judge/mean"]
        assert before["judge/bound_low"] <= before["judge/mean"] <= before["judge/bound_high"]


def test_a_run_without_any_score_has_no_mean() -> None:
    report = judge_responses(items(2), ["x", "y"], judge=Scripted({"item-0": "connection", "item-1": "connection"}))
    assert math.isnan(report.metrics["judge/mean"])
    assert (report.metrics["judge/bound_low"], report.metrics["judge/bound_high"]) == (0, 100)


def test_the_short_cut_share_and_times_leave_out_what_was_not_asked() -> None:
    class Mixed(Scripted):
        def __call__(self, sample: Sample, response: str, *, shortcut: bool = True, repeat: int = 0) -> Verdict:  # noqa: ARG002
            return {
                "item-0": Verdict(100, "", None, "", 0.0, source="exact_match", weighted=100.0),
                "item-1": Verdict(
                    50, "", None, "", 1.0, flags=("repaired",), weighted=46.0, valid_mass=0.8, cached=True
                ),
                "item-2": Verdict(50, "", None, "", 2.0, valid_mass=0.4, load_seconds=30.0),
            }[sample.id]

    metrics = judge_responses(items(3), ["x"] * 3, judge=Mixed({})).metrics
    assert metrics["judge/exact_share"] == pytest.approx(1 / 3)
    assert (metrics["judge/seconds_per_item"], metrics["judge/load_seconds"]) == (1.5, 30.0)
    assert metrics["judge/cached"] == metrics["judge/repaired"] == 1
    # The item without enough probability on scores has no part in the weighted mean; its score does not stand in.
    assert (metrics["judge/weighted_mean"], metrics["judge/weighted_scored"]) == (73.0, 2)
    assert metrics["judge/valid_mass"] == pytest.approx(0.6)
    assert metrics["judge/mean"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_rows_keep_the_order_of_the_items_and_progress_counts_all_questions(concurrency: int) -> None:
    samples = items(20)
    judge = Scripted({sample.id: index for index, sample in enumerate(samples)})
    seen: list[Progress] = []
    report = judge_responses(samples, ["x"] * 20, judge=judge, concurrency=concurrency, on_progress=seen.append)
    assert [row["score"] for row in report.rows] == list(range(20))
    assert [(one.done, one.total) for one in seen] == [(n, 90) for n in range(1, 91)]
    assert len(judge.asked) == 90
    # Controls are asked past the short cut, repeats past the store, items as they come.
    assert Counter(asked[2:] for asked in judge.asked) == {(True, 0): 20, (False, 0): 60, (False, 1): 10}


def test_turning_the_items_round_changes_no_score() -> None:
    samples = items(20)
    judge = Scripted({sample.id: index for index, sample in enumerate(samples)})
    one, other = (judge_responses(order, ["x"] * 20, judge=judge) for order in (samples, samples[::-1]))
    assert one.rows == other.rows[::-1]
    assert one.metrics["judge/mean"] == other.metrics["judge/mean"]
    assert one.provenance["items_digest"] == other.provenance["items_digest"]


def test_a_panel_gives_a_row_per_item_with_what_every_judge_said() -> None:
    samples = items(3)
    strict = judge_responses(samples, ["x"] * 3, judge=Scripted({"item-0": 10, "item-1": "timeout", "item-2": 30}))
    kind = judge_responses(samples, ["x"] * 3, judge=Scripted({"item-0": 80, "item-1": 90, "item-2": 100}))
    rows = join_panel_scores({"strict": strict, "kind": kind})
    assert [row["id"] for row in rows] == ["item-0", "item-1", "item-2"]
    assert rows[1] == {
        "id": "item-1",
        "scores": {"strict": None, "kind": 90},
        "reasons": {"strict": "timeout", "kind": None},
    }
    turned = judge_responses(samples[::-1], ["x"] * 3, judge=Scripted(dict.fromkeys(["item-0", "item-1", "item-2"], 1)))
    for reports in ({}, {"a": strict, "b": turned}):
        with pytest.raises(EvalDataError, match="expected every judge of a panel to have judged the same items"):
            join_panel_scores(reports)


def test_the_report_names_the_items_and_the_instrument() -> None:
    samples = items(3)
    judge = Scripted(dict.fromkeys(("item-0", "item-1", "item-2"), 5))
    first = judge_responses(samples, ["x"] * 3, judge=judge).provenance
    turned = judge_responses(samples[::-1], ["y"] * 3, judge=judge).provenance
    changed = judge_responses([*samples[:2], Sample("item-2", "Do thing 2", "", "else")], ["x"] * 3, judge=judge)
    assert first["judge"] == {"mode": "scripted"}
    assert first["items_digest"] == turned["items_digest"] != changed.provenance["items_digest"]
    assert first["comparable_group"] == changed.provenance["comparable_group"]


def test_responses_that_do_not_fit_the_items_are_refused() -> None:
    judge = Scripted({})
    twice = [Sample("same", "a", "", "b"), Sample("same", "c", "", "d")]
    for evaluate in (score_responses, lambda s, r: judge_responses(s, r, judge=judge)):
        with pytest.raises(EvalDataError, match="expected 2 responses, one for each item in the same order, got 1"):
            evaluate(items(2), ["x"])
        with pytest.raises(EvalDataError, match=r"expected unique ids, .* got 'same' more than once"):
            evaluate(twice, ["x", "y"])
        with pytest.raises(EvalDataError, match="expected at least one item to evaluate"):
            evaluate([], [])
    with pytest.raises(EvalConfigError, match="expected a concurrency of at least 1, got 0"):
        judge_responses(items(1), ["x"], judge=judge, concurrency=0)


def test_an_error_of_the_judge_itself_is_not_a_verdict() -> None:
    class Broken(Scripted):
        def __call__(self, sample: Sample, response: str, *, shortcut: bool = True, repeat: int = 0) -> Verdict:  # noqa: ARG002
            raise RuntimeError("a fault of the program")

    with pytest.raises(RuntimeError, match="a fault of the program"):
        judge_responses(items(3), ["x"] * 3, judge=Broken({}))


@pytest.mark.parametrize(
    ("score", "reason"), [(None, None), (50, "timeout"), (101, None), (-1, None), (True, None), (50.0, None)]
)
def test_a_verdict_is_either_a_score_in_range_or_a_reason(score: Any, reason: Any) -> None:
    with pytest.raises(ValueError, match="score"):
        Verdict(score, "", reason, "", 0.0)
    with pytest.raises(ValueError, match=r"expected an unscored reason out of timeout, .*, got 'tired'"):
        Verdict(None, "", "tired", "", 0.0)  # type: ignore[arg-type]
