"""Comparisons: both orders, disagreement a tie that is counted, failures typed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eval.judge.client import Deadlines
from eval.judge.ollama import OllamaClient
from eval.judge.pairwise import PairwiseJudge
from eval.run import compare_responses
from eval.testing.fake_ollama import ChatCall, FakeOllama, Scenario
from eval.types import OrderVerdict, PairVerdict, Sample, UnscoredReason

Connect = Callable[..., OllamaClient]
SAMPLE = Sample("x", "Name the capital of France.", "", "Paris is the capital")
GOOD, BAD = "Paris is the nice capital", "It is Lyon"

FAILURES: list[tuple[Scenario, UnscoredReason, int]] = [
    ("slow", "timeout", 1),
    ("hang_up", "connection", 3),
    ("missing_model", "http_4xx", 1),
    ("server_error", "http_5xx", 3),
    ("not_done", "not_done", 3),
    ("length", "length", 2),
    ("prose", "bad_json", 2),
    ("text_score", "schema", 2),
    ("null_score", "schema", 2),
    ("true_score", "schema", 2),
    ("context_refused", "truncated", 1),
    ("empty", "empty", 2),
]


def test_the_better_answer_wins_wherever_it_is_shown(connect: Connect) -> None:
    with FakeOllama() as fake:
        judge = PairwiseJudge(connect(fake))
        left, right = judge(SAMPLE, GOOD, BAD), judge(SAMPLE, BAD, GOOD)
    assert (left.preference, left.points, right.preference, right.points) == ("left", 1.0, "right", 0.0)
    assert [one.choice for one in left.orders] == ["A", "B"]
    assert not left.disagrees
    assert [(call.texts["ANSWER A"], call.texts["ANSWER B"]) for call in fake.calls[:2]] == [(GOOD, BAD), (BAD, GOOD)]
    assert all(call.reference == SAMPLE.reference for call in fake.calls)


def test_a_judge_that_prefers_a_place_makes_ties_that_are_counted(connect: Connect) -> None:
    samples = [Sample(f"item-{n}", "Say", "", f"word {n}") for n in range(5)]
    left, right = [f"word {n} more" for n in range(5)], [f"no {n}" for n in range(4)] + ["WORD 4  more"]
    with FakeOllama(scenario="first_slot") as fake:
        report = compare_responses(samples, left, right, judge=PairwiseJudge(connect(fake)))
    metrics = report.metrics
    assert (metrics["judge/ties"], metrics["judge/disagreements"], metrics["judge/identical"]) == (5, 4, 1)
    assert (metrics["judge/win_rate"], metrics["judge/consistency"]) == (0.5, 0.0)
    assert (metrics["judge/first_slot"], metrics["judge/second_slot"]) == (8, 0)
    assert [row["disagrees"] for row in report.rows] == [True] * 4 + [False]
    assert [order["preference"] for order in report.rows[0]["orders"]] == ["left", "right"]


def test_a_tie_in_one_order_only_is_a_disagreement(connect: Connect) -> None:
    with FakeOllama(prefer=lambda call: "A" if call.index == 0 else "TIE") as fake:
        verdict = PairwiseJudge(connect(fake))(SAMPLE, GOOD, BAD)
    assert (verdict.preference, verdict.disagrees) == ("tie", True)


def test_equal_answers_are_a_tie_without_a_request(connect: Connect) -> None:
    with FakeOllama() as fake:
        client = connect(fake)
        verdict = PairwiseJudge(client)(SAMPLE, GOOD, f" {GOOD.upper()}\n")
        assert fake.calls == fake.loads == []
        asked = PairwiseJudge(client, shortcut=False)(SAMPLE, GOOD, f" {GOOD.upper()}\n")
    assert (verdict.preference, verdict.source, verdict.orders, verdict.disagrees) == ("tie", "identical", (), False)
    assert (asked.preference, asked.source, len(fake.calls)) == ("tie", "judge", 2)


def test_turning_the_sides_turns_the_verdict(connect: Connect) -> None:
    samples = [Sample(f"item-{n}", f"Say {n}", "", f"one two three {n}") for n in range(8)]
    ours, theirs = [f"one {n}" for n in range(8)], [f"one two {n}" if n % 2 else f"none {n}" for n in range(8)]
    with FakeOllama() as fake:
        judge = PairwiseJudge(connect(fake))
        one, other = (compare_responses(samples, *sides, judge=judge) for sides in ((ours, theirs), (theirs, ours)))
    assert one.metrics["judge/win_rate"] == 1 - other.metrics["judge/win_rate"] == 0.5
    assert one.metrics["judge/left_wins"] == other.metrics["judge/right_wins"] == 4
    assert [row["points"] for row in one.rows] == [1 - row["points"] for row in other.rows]


@pytest.mark.parametrize(("scenario", "reason", "n_calls"), FAILURES)
@pytest.mark.parametrize("failing_order", [0, 1])
def test_half_a_comparison_is_no_comparison(
    connect: Connect, scenario: Scenario, reason: UnscoredReason, n_calls: int, failing_order: int
) -> None:
    def choose(call: ChatCall) -> Scenario:
        return "score" if call.index < failing_order else scenario

    with FakeOllama(scenario=choose) as fake:
        judge = PairwiseJudge(connect(fake, deadlines=Deadlines(connect=2.0, read=0.3, idle=0.3, total=0.5)))
        verdict = judge(SAMPLE, GOOD, BAD)
    assert (verdict.preference, verdict.points, verdict.reason, verdict.disagrees) == (None, None, reason, False)
    assert verdict.detail
    assert len(verdict.orders) == failing_order + 1
    assert len(fake.calls) == failing_order + n_calls


def test_unscored_comparisons_are_counted_and_bound_the_win_rate(connect: Connect) -> None:
    samples = [Sample(f"item-{n}", "Say", "", f"word {n}") for n in range(4)]

    def choose(call: ChatCall) -> Scenario:
        return "missing_model" if call.reference == "word 3" else "score"

    with FakeOllama(scenario=choose) as fake:
        report = compare_responses(
            samples, [f"word {n}" for n in range(4)], ["no"] * 4, judge=PairwiseJudge(connect(fake)), concurrency=3
        )
    metrics = report.metrics
    assert (metrics["judge/scored"], metrics["judge/unscored_http_4xx"]) == (3, 1)
    assert (metrics["judge/win_rate"], metrics["judge/bound_low"], metrics["judge/bound_high"]) == (1.0, 0.75, 1.0)
    assert report.rows[3]["reason"] == "http_4xx"
    assert report.controls is None


def test_one_repair_request_may_save_an_unreadable_comparison(connect: Connect) -> None:
    with FakeOllama(scenario=lambda call: "prose" if call.index == 0 else "score") as fake:
        verdict = PairwiseJudge(connect(fake))(SAMPLE, GOOD, BAD)
    assert (verdict.preference, [one.flags for one in verdict.orders]) == ("left", [("repaired",), ()])
    assert '"verdict"' in fake.calls[1].body["messages"][3]["content"]


@pytest.mark.parametrize(("value", "reason"), [(None, None), ("tie", "timeout")])
def test_a_verdict_is_either_a_preference_or_a_reason(value: str | None, reason: UnscoredReason | None) -> None:
    with pytest.raises(ValueError, match="expected a verdict with a preference or a reason"):
        PairVerdict(value, reason)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a verdict with a choice or a reason"):
        OrderVerdict("A", value and "TIE", "", reason, "", 0.0)
