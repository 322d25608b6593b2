"""The store: nothing asked twice, no failure served, whatever was interrupted."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.errors import StoreError
from eval.judge.client import CallFailed, Message, Reply
from eval.judge.ollama import OllamaClient, Options
from eval.judge.pointwise import PointwiseJudge
from eval.judge.schema import VERDICT_SCHEMA
from eval.judge.store import AnswerStore, CachedClient, request_key
from eval.run import judge_responses
from eval.testing.fake_ollama import ChatCall, FakeOllama, Scenario
from eval.types import Report, Sample

Connect = Callable[..., OllamaClient]
SAMPLES = [Sample(f"item-{n}", f"Count to {n}", "", " ".join(map(str, range(n + 3)))) for n in range(8)]
RESPONSES = [f"0 1 and {n}" for n in range(8)]

CHILD = """
import sys
from pathlib import Path
from eval.judge.assemble import ollama_judge
from eval.run import judge_responses
from eval.types import Sample

samples = [Sample(f"item-{n}", f"Count to {n}", "", " ".join(map(str, range(n + 3)))) for n in range(8)]
with ollama_judge(sys.argv[1], "llama3", store=Path(sys.argv[2])) as (judge, _):
    report = judge_responses(samples, [f"0 1 and {n}" for n in range(8)], judge=judge)
sys.stdout.write(str(report.metrics["judge/mean"]))
"""


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


def judged(client: Any, path: Path, *, concurrency: int = 1, repeat: int = 0) -> Report:
    with AnswerStore(path) as store:
        judge = PointwiseJudge(CachedClient(client, store), repeat=repeat)
        return judge_responses(SAMPLES, RESPONSES, judge=judge, concurrency=concurrency)


def scores(report: Report) -> list[int | None]:
    return [row["score"] for row in report.rows]


def test_a_second_run_asks_nothing_and_finds_the_same(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    before, after = judged(first, tmp_path / "a.jsonl"), judged(second, tmp_path / "a.jsonl")
    assert (len(first.asked), len(second.asked)) == (8, 0)
    assert scores(before) == scores(after)
    assert before.metrics["judge/mean"] == after.metrics["judge/mean"]
    assert (before.metrics["judge/cached"], after.metrics["judge/cached"]) == (0, 8)


@pytest.mark.parametrize("bad_at", [(), (0, 3, 6)])
def test_a_run_that_dies_at_any_call_goes_on_where_it_stopped(tmp_path: Path, bad_at: tuple[int, ...]) -> None:
    whole = Counting(bad_at=bad_at)
    expected = scores(judged(whole, tmp_path / "whole.jsonl"))
    assert None not in expected
    for die_at in range(whole.n_calls):
        path = tmp_path / f"{die_at}.jsonl"
        dying = Counting(die_at=die_at, bad_at=bad_at)
        with pytest.raises(Interrupted):
            judged(dying, path)
        going_on = Counting()
        assert scores(judged(going_on, path)) == expected
        answered = [question for number, question in enumerate(dying.asked) if number not in bad_at]
        assert not Counter(answered) & Counter(going_on.asked)
        assert judged(Counting(die_at=0), path).metrics["judge/scored"] == 8


def test_a_repaired_answer_is_reached_again_without_asking(tmp_path: Path) -> None:
    first = judged(Counting(bad_at=(0,)), tmp_path / "a.jsonl")
    again = Counting()
    second = judged(again, tmp_path / "a.jsonl")
    assert again.asked == []
    assert scores(first) == scores(second)
    assert second.rows[0]["flags"] == ["cached", "repaired"]


def test_failures_are_written_down_and_never_served(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    failing = Counting(fail_at=(2,), bad_at=(5, 6))
    report = judged(failing, path)
    assert report.metrics["judge/unscored_http_5xx"] == report.metrics["judge/unscored_bad_json"] == 1
    outcomes = Counter(json.loads(line)["outcome"] for line in path.read_text("utf-8").splitlines())
    assert outcomes == {"ok": 6, "http_5xx": 1, "bad_json": 2}
    again = Counting()
    healed = judged(again, path)
    assert len(again.asked) == 2
    assert healed.metrics["judge/unscored"] == 0


def test_a_repeat_is_a_new_question(tmp_path: Path) -> None:
    judged(Counting(), tmp_path / "a.jsonl")
    again = Counting()
    judged(again, tmp_path / "a.jsonl", repeat=1)
    assert len(again.asked) == 8


@pytest.mark.parametrize("change", [{"model_digest": "f" * 64}, {"version": "0.34.0"}])
def test_another_model_or_server_is_asked_anew(connect: Connect, tmp_path: Path, change: dict[str, str]) -> None:
    for fake in (FakeOllama(), FakeOllama(**change)):  # type: ignore[arg-type]
        with fake:
            judged(connect(fake), tmp_path / "a.jsonl")
        assert len(fake.calls) == 8


def test_equal_items_judged_at_once_are_one_question(tmp_path: Path) -> None:
    samples = [Sample(str(n), "Say", "", "the same") for n in range(12)]
    client = Counting()
    with AnswerStore(tmp_path / "a.jsonl") as store:
        judge = PointwiseJudge(CachedClient(client, store))
        report = judge_responses(samples, ["not quite"] * 12, judge=judge, concurrency=4)
    assert len(client.asked) == 1
    assert report.metrics["judge/scored"] == 12


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    judged(Counting(), tmp_path / "a.jsonl", concurrency=8)
    lines = (tmp_path / "a.jsonl").read_text("utf-8").splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == 8


def test_a_killed_process_asks_nothing_twice(connect: Connect, tmp_path: Path) -> None:
    path, kill_at = tmp_path / "answers.jsonl", 5
    child: list[subprocess.Popen[str]] = []
    ready = threading.Event()

    def start(url: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, url, str(path)]
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def choose(call: ChatCall) -> Scenario:
        if call.index == kill_at:
            ready.wait(10)
            child[0].send_signal(signal.SIGKILL)
            child[0].wait(10)
            return "hang_up"
        return "score"

    with FakeOllama(scenario=choose) as fake:
        child.append(start(fake.url))
        ready.set()
        child[0].communicate(timeout=60)
        assert child[0].returncode == -signal.SIGKILL
        assert len(fake.calls) == kill_at + 1
        output, _ = start(fake.url).communicate(timeout=60)
    answered = [call.body["messages"][1]["content"] for call in fake.calls if call.index != kill_at]
    assert len(answered) == len(set(answered)) == 8
    with FakeOllama() as fake:
        uninterrupted = judge_responses(SAMPLES, RESPONSES, judge=PointwiseJudge(connect(fake)))
    assert float(output) == uninterrupted.metrics["judge/mean"]


def test_a_torn_last_line_is_removed_and_its_question_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    judged(Counting(), path)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    again = Counting()
    judged(again, path)
    assert len(again.asked) == 1
    assert "removed a last line of" in caplog.text
    assert len(path.read_text("utf-8").splitlines()) == 8
    assert all(json.loads(line) for line in path.read_text("utf-8").splitlines())


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    judged(Counting(), path)
    lines = path.read_text("utf-8").splitlines(keepends=True)
    for damaged in ("{]\n", '{"format": 1}\n', "[]\n", lines[3].replace('"done":', '"dune":')):
        path.write_text("".join([*lines[:3], damaged, *lines[4:]]), "utf-8")
        with pytest.raises(StoreError, match=r"a\.jsonl:4: not a recorded answer .* asked again"):
            AnswerStore(path)


def test_two_runs_cannot_write_to_one_store(tmp_path: Path) -> None:
    with (
        AnswerStore(tmp_path / "a.jsonl"),
        pytest.raises(StoreError, match="another process is writing to it"),
    ):
        AnswerStore(tmp_path / "a.jsonl")
    AnswerStore(tmp_path / "a.jsonl").close()


def test_a_line_that_does_not_fit_on_the_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    record = {"format": 1, "key": "k", "exchange": "e", "outcome": "timeout", "reply": None}
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
    assert (request_key(**one) == request_key(**changed)) is same


def test_keys_do_not_depend_on_the_order_of_settings_but_on_that_of_the_schema() -> None:
    def key(describe: dict[str, Any], schema: dict[str, Any]) -> str:
        return request_key(describe=describe, schema=schema, messages=(), identity={})

    turned = {**VERDICT_SCHEMA, "properties": dict(reversed(VERDICT_SCHEMA["properties"].items()))}
    assert key({"a": 1, "b": 2}, VERDICT_SCHEMA) == key({"b": 2, "a": 1}, VERDICT_SCHEMA)
    assert key({}, VERDICT_SCHEMA) != key({}, turned)


@pytest.mark.parametrize(
    "options", [Options(seed=1), Options(temperature=0.1), Options(num_ctx=4096), Options(num_predict=100)]
)
def test_every_option_of_the_model_is_in_the_key(connect: Connect, options: Options) -> None:
    with FakeOllama() as fake:
        keys = {
            request_key(describe=client.describe(), schema={}, messages=(), identity={})
            for client in (connect(fake), connect(fake, options=options))
        }
    assert len(keys) == 2
