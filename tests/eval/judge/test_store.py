"""The store: nothing asked twice, no failure served, whatever was interrupted."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.errors import JudgeChanged, StoreError
from eval.judge.assemble import JudgeSpec, open_judge
from eval.judge.client import CallFailed, Message, Options, Reply
from eval.judge.ollama import OllamaClient
from eval.judge.pairwise import PairwiseJudge
from eval.judge.pointwise import PointwiseJudge
from eval.judge.schema import POINTWISE
from eval.judge.store import AnswerStore, CachedClient, compute_request_key
from eval.run import compare_responses, judge_responses
from eval.testing.fake_ollama import ChatCall, FakeOllama, Scenario
from eval.types import NO_CONTROLS, Report, Sample

Connect = Callable[..., OllamaClient]
SAMPLES = [Sample(f"item-{n}", f"Count to {n}", "", " ".join(map(str, range(n + 3)))) for n in range(8)]
RESPONSES = [f"0 1 and {n}" for n in range(8)]


class Interrupted(BaseException):
    """Stands for a kill: it is not caught by anything on the way."""


class Counting:
    """A backend without a server: answers by the length of the prompt, and dies or fails at chosen calls."""

    def __init__(self, *, die_at: int | None = None, fail_at: tuple[int, ...] = (), bad_at: tuple[int, ...] = ()):
        self.die_at, self.fail_at, self.bad_at = die_at, fail_at, bad_at
        self.asked: list[str] = []
        self.n_calls = 0

    def chat(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any],  # noqa: ARG002 - the protocol's
        identity: Mapping[str, str | int] | None = None,
    ) -> Reply:
        number, self.n_calls = self.n_calls, self.n_calls + 1
        if number == self.die_at:
            raise Interrupted
        self.asked.append(json.dumps([list(messages), dict(identity or {})]))
        if number in self.fail_at:
            raise CallFailed("http_5xx", "busy", transient=True)
        good = json.dumps({"rationale": "r", "score": len(messages[1]["content"]) % 101})
        return Reply("prose" if number in self.bad_at else good, 9, 9, True, "stop", 0.01)

    def describe(self) -> dict[str, Any]:
        return {"backend": "counting"}

    def verify(self) -> None:
        """Always the same."""


def judge_through(client: Any, path: Path, *, concurrency: int = 1, repeat: int = 0) -> Report:
    with AnswerStore(path) as store:
        judge = PointwiseJudge(CachedClient(client, store), repeat=repeat)
        return judge_responses(SAMPLES, RESPONSES, judge=judge, controls=NO_CONTROLS, concurrency=concurrency)


def scores(report: Report) -> list[int | None]:
    return [row["score"] for row in report.rows]


def test_a_second_run_asks_nothing_and_finds_the_same(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    before, after = judge_through(first, tmp_path / "a.jsonl"), judge_through(second, tmp_path / "a.jsonl")
    assert (len(first.asked), len(second.asked)) == (8, 0)
    assert before.rows == after.rows
    assert {**before.metrics, "judge/cached": 8} == after.metrics
    assert (before.metrics["judge/cached"], after.metrics["judge/cached"]) == (0, 8)


@pytest.mark.parametrize("bad_at", [(), (0, 3, 6)])
def test_a_run_that_dies_at_any_call_goes_on_where_it_stopped(tmp_path: Path, bad_at: tuple[int, ...]) -> None:
    whole = Counting(bad_at=bad_at)
    expected = scores(judge_through(whole, tmp_path / "whole.jsonl"))
    assert None not in expected
    for die_at in range(whole.n_calls):
        path = tmp_path / f"{die_at}.jsonl"
        dying = Counting(die_at=die_at, bad_at=bad_at)
        with pytest.raises(Interrupted):
            judge_through(dying, path)
        going_on = Counting()
        assert scores(judge_through(going_on, path)) == expected
        answered = [question for number, question in enumerate(dying.asked) if number not in bad_at]
        assert not Counter(answered) & Counter(going_on.asked)
        assert judge_through(Counting(die_at=0), path).metrics["judge/scored"] == 8


class Sloppy(Counting):
    """Writes prose first about some items, however often it is asked."""

    def __init__(self, *, items: frozenset[int], die_at: int | None = None) -> None:
        super().__init__(die_at=die_at)
        self.items = items

    def chat(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any],
        identity: Mapping[str, str | int] | None = None,
    ) -> Reply:
        reply = super().chat(messages, schema=schema, identity=identity)
        is_sloppy = any(f"Count to {n}\n" in messages[1]["content"] for n in self.items)
        return replace(reply, content="prose") if is_sloppy and len(messages) == 2 else reply


@settings(database=None, deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 12), max_size=4), st.frozensets(st.integers(0, 7)))
def test_however_often_a_run_dies_it_ends_as_one_that_did_not(deaths: list[int], items: frozenset[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = Sloppy(items=items)
        expected = judge_through(whole, Path(folder) / "whole.jsonl").rows
        asked: Counter[str] = Counter()
        for die_at in [*deaths, None]:
            client = Sloppy(items=items, die_at=die_at)
            try:
                found = judge_through(client, Path(folder) / "killed.jsonl").rows
            except Interrupted:
                found = []
            asked.update(client.asked)
    assert found == expected
    assert asked.keys() == set(whole.asked)
    # Only prose of which the repair was still open is asked for again, once for each death.
    assert all(
        times == 1 for question, times in asked.items() if not any(f"Count to {n}\\n" in question for n in items)
    )
    assert asked.total() - len(asked) <= len(deaths)


def test_a_repaired_answer_is_reached_again_without_asking(tmp_path: Path) -> None:
    first = judge_through(Counting(bad_at=(0,)), tmp_path / "a.jsonl")
    again = Counting()
    second = judge_through(again, tmp_path / "a.jsonl")
    assert again.asked == []
    assert scores(first) == scores(second)
    assert second.rows[0]["flags"] == ["repaired"]
    assert second.rows == first.rows
    assert second.metrics["judge/cached"] == 8


def test_failures_are_written_down_and_never_served(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    failing = Counting(fail_at=(2,), bad_at=(5, 6))
    report = judge_through(failing, path)
    assert report.metrics["judge/unscored_http_5xx"] == report.metrics["judge/unscored_bad_json"] == 1
    outcomes = Counter(json.loads(line)["outcome"] for line in path.read_text("utf-8").splitlines())
    assert outcomes == {"ok": 6, "http_5xx": 1, "bad_json": 2}
    again = Counting()
    healed = judge_through(again, path)
    assert len(again.asked) == 2
    assert healed.metrics["judge/unscored"] == 0


def test_a_repeat_is_a_new_question(tmp_path: Path) -> None:
    judge_through(Counting(), tmp_path / "a.jsonl")
    again = Counting()
    judge_through(again, tmp_path / "a.jsonl", repeat=1)
    assert len(again.asked) == 8


@pytest.mark.parametrize("change", [{"model_digest": "f" * 64}, {"version": "0.34.0"}])
def test_another_model_or_server_is_asked_anew(connect: Connect, tmp_path: Path, change: dict[str, str]) -> None:
    for fake in (FakeOllama(), FakeOllama(**change)):  # type: ignore[arg-type]
        with fake:
            judge_through(connect(fake), tmp_path / "a.jsonl")
        assert len(fake.calls) == 8


def test_equal_items_judged_at_once_are_one_question(tmp_path: Path) -> None:
    samples = [Sample(str(n), "Say", "", "the same") for n in range(12)]
    client = Counting()
    with AnswerStore(tmp_path / "a.jsonl") as store:
        judge = PointwiseJudge(CachedClient(client, store))
        report = judge_responses(samples, ["not quite"] * 12, judge=judge, controls=NO_CONTROLS, concurrency=4)
    assert len(client.asked) == 1
    assert report.metrics["judge/scored"] == 12


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    judge_through(Counting(), tmp_path / "a.jsonl", concurrency=8)
    lines = (tmp_path / "a.jsonl").read_text("utf-8").splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == 8


def test_a_torn_last_line_is_removed_and_its_question_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    judge_through(Counting(), path)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    again = Counting()
    judge_through(again, path)
    assert len(again.asked) == 1
    assert "removed a last line of" in caplog.text
    assert len(path.read_text("utf-8").splitlines()) == 8
    assert all(json.loads(line) for line in path.read_text("utf-8").splitlines())


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    judge_through(Counting(), path)
    lines = path.read_text("utf-8").splitlines(keepends=True)
    for damaged in ("{]\n", '{"format": 2}\n', '{"format": 9}\n', "[]\n", lines[3].replace('"done":', '"dune":')):
        path.write_text("".join([*lines[:3], damaged, *lines[4:]]), "utf-8")
        with pytest.raises(StoreError, match=r"a\.jsonl:4: not a recorded answer .* asked again"):
            AnswerStore(path)


def test_answers_of_an_older_form_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"format": 1, "key": "k", "reply": {"content": "x"}}\n', "utf-8")
    assert judge_through(Counting(), path).metrics["judge/scored"] == 8
    assert judge_through(Counting(die_at=0), path).metrics["judge/cached"] == 8


def test_comparisons_and_controls_are_kept_too(tmp_path: Path) -> None:
    with FakeOllama() as fake:
        reports = []
        for _ in range(2):
            with open_judge(JudgeSpec(host=fake.url), store=tmp_path / "a.jsonl") as opened:
                scored = judge_responses(SAMPLES, RESPONSES, judge=opened.build_pointwise())
                compared = compare_responses(SAMPLES, RESPONSES, RESPONSES[::-1], judge=opened.build_pairwise())
            reports.append((scored.rows, scored.controls, compared.rows))
            n_asked = len(fake.calls)
    assert reports[0] == reports[1]
    assert len({json.dumps(call.body["messages"]) for call in fake.calls}) < n_asked == len(fake.calls)  # repeats
    assert compared.metrics["judge/cached"] == 8


class Moving(Counting):
    """A backend whose model is another one from some call on, which is found out a few calls later."""

    def __init__(self, *, moves_at: int, noticed_at: int) -> None:
        super().__init__()
        self.moves_at, self.noticed_at = moves_at, noticed_at
        self.since = 0.0

    def chat(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any],
        identity: Mapping[str, str | int] | None = None,
    ) -> Reply:
        if self.n_calls == self.moves_at:
            self.since = time.monotonic()
            time.sleep(0.002)
        if self.n_calls == self.noticed_at:
            raise JudgeChanged("it moved", since=self.since)
        return super().chat(messages, schema=schema, identity=identity)


def test_what_another_model_answered_before_it_was_noticed_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(JudgeChanged, match="it moved"):
        judge_through(Moving(moves_at=3, noticed_at=6), path)
    outcomes = [json.loads(line)["outcome"] for line in path.read_text("utf-8").splitlines()]
    assert outcomes == ["ok"] * 6 + ["taken_back"] * 3
    again = Counting()
    assert judge_through(again, path).metrics["judge/cached"] == 3
    assert len(again.asked) == 5


def test_a_digest_that_moves_in_the_middle_of_a_run_ends_it_and_nothing_of_it_is_served(tmp_path: Path) -> None:
    def choose(call: ChatCall) -> Scenario:
        return "digest_moves" if call.index == 4 else "score"

    with FakeOllama(scenario=choose, seconds=0.01) as fake:
        spec, path = JudgeSpec(host=fake.url), tmp_path / "a.jsonl"
        with (
            pytest.raises(JudgeChanged, match=r"with the digest 365c0bd3c000 .* run again"),
            open_judge(spec, store=path) as opened,
        ):
            judge_responses(SAMPLES, RESPONSES, judge=opened.build_pointwise(), controls=NO_CONTROLS)
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        taken_back = {line["key"] for line in lines if line["outcome"] == "taken_back"}
        assert {line["key"] for line in lines[4:] if line["outcome"] == "ok"} <= taken_back
        with open_judge(spec, store=path) as opened:
            report = judge_responses(SAMPLES, RESPONSES, judge=opened.build_pointwise(), controls=NO_CONTROLS)
    assert (report.metrics["judge/scored"], report.metrics["judge/cached"]) == (8, 0)


def test_two_runs_cannot_write_to_one_store(tmp_path: Path) -> None:
    with (
        AnswerStore(tmp_path / "a.jsonl"),
        pytest.raises(StoreError, match="another process is writing to it"),
    ):
        AnswerStore(tmp_path / "a.jsonl")
    AnswerStore(tmp_path / "a.jsonl").close()


def test_a_line_that_does_not_fit_on_the_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    record = {"format": 2, "key": "k", "exchange": "e", "outcome": "timeout", "reply": None}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with AnswerStore(path) as store:
        store.append(record)
        before = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
        try:
            with pytest.raises(StoreError, match=r"could not be written \(File too large\); make room and run again"):
                store.append({**record, "key": "another"})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == before
        store.append({**record, "key": "another"})
    assert len(path.read_bytes().splitlines()) == 2


json_fields = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=4), lambda inner: st.lists(inner, max_size=2), max_leaves=3
)
requests = st.fixed_dictionaries(
    {
        "describe": st.dictionaries(st.text(max_size=3), json_fields, max_size=3),
        "schema": st.dictionaries(st.text(max_size=3), json_fields, max_size=3),
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": st.text(max_size=4)}),
            max_size=2,
        ),
        "identity": st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=3),
    }
)


@settings(database=None, deadline=None, max_examples=150)
@given(requests, requests, st.sampled_from(["describe", "schema", "messages", "identity"]))
def test_a_change_of_any_one_field_is_another_key(one: dict[str, Any], other: dict[str, Any], field: str) -> None:
    changed = {**one, field: other[field]}
    same = json.dumps(one[field], sort_keys=field != "schema") == json.dumps(other[field], sort_keys=field != "schema")
    assert (compute_request_key(**one) == compute_request_key(**changed)) is same


def turn_keys(value: Any) -> Any:
    """The same JSON value with the keys of every object in the other order."""
    if isinstance(value, dict):
        return {name: turn_keys(one) for name, one in reversed(value.items())}
    return [turn_keys(one) for one in value] if isinstance(value, list) else value


@settings(database=None, deadline=None, max_examples=80)
@given(requests)
def test_the_order_in_which_settings_are_named_makes_no_other_key(request: dict[str, Any]) -> None:
    assert compute_request_key(**request) == compute_request_key(**{**turn_keys(request), "schema": request["schema"]})


def test_keys_do_not_depend_on_the_order_of_settings_but_on_that_of_the_schema() -> None:
    def key(describe: dict[str, Any], schema: dict[str, Any]) -> str:
        return compute_request_key(describe=describe, schema=schema, messages=(), identity={})

    other = {**POINTWISE.schema, "properties": dict(reversed(POINTWISE.schema["properties"].items()))}
    assert key({"a": 1, "b": 2}, POINTWISE.schema) == key({"b": 2, "a": 1}, POINTWISE.schema)
    assert key({}, POINTWISE.schema) != key({}, other)


def test_pointwise_and_pairwise_questions_never_meet(tmp_path: Path) -> None:
    client = Counting()
    with AnswerStore(tmp_path / "a.jsonl") as store:
        cached = CachedClient(client, store)
        PointwiseJudge(cached)(SAMPLES[0], "x")
        PairwiseJudge(cached)(SAMPLES[0], "x", "y")
    keys = [json.loads(line)["key"] for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    assert len(set(keys)) == len(keys) == 3  # the comparison's first order fails here, after its repair


@pytest.mark.parametrize(
    "options", [Options(seed=1), Options(temperature=0.1), Options(num_ctx=4096), Options(num_predict=100)]
)
def test_every_option_of_the_model_is_in_the_key(connect: Connect, options: Options) -> None:
    with FakeOllama() as fake:
        keys = {
            compute_request_key(describe=client.describe(), schema={}, messages=(), identity={})
            for client in (connect(fake), connect(fake, options=options))
        }
    assert len(keys) == 2
