"""A run that is killed again and again asks nothing twice and ends with the report of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.judge.assemble import JudgeSpec, open_judge
from eval.run import judge_responses
from eval.testing.fake_ollama import ChatCall, FakeOllama, Scenario
from eval.types import ControlCounts, Report, Sample

N_ITEMS = 30
COUNTS = ControlCounts(3, 3, 2, 2, 2, 2)
SAMPLES = [Sample(f"item-{n}", f"Count to {n}", "", " ".join(map(str, range(n + 3)))) for n in range(N_ITEMS)]
RESPONSES = [f"0 1 and {n}" for n in range(N_ITEMS)]

CHILD = """
import json, sys
from pathlib import Path
from eval.judge.assemble import JudgeSpec, open_judge
from eval.run import judge_responses
from eval.types import ControlCounts, Sample

url, store, out, concurrency = sys.argv[1:]
n = 30
samples = [Sample(f"item-{n}", f"Count to {n}", "", " ".join(map(str, range(n + 3)))) for n in range(n)]
responses = [f"0 1 and {n}" for n in range(n)]
with open_judge(JudgeSpec(host=url), store=Path(store)) as opened:
    judge, counts = opened.build_pointwise(), ControlCounts(3, 3, 2, 2, 2, 2)
    report = judge_responses(samples, responses, judge=judge, controls=counts, concurrency=int(concurrency))
found = {"metrics": report.metrics, "rows": report.rows, "controls": report.controls.rows}
Path(out).write_text(json.dumps({**found, "provenance": report.provenance}))
"""
OF_THE_MOMENT = ("seconds", "judge/seconds_per_item", "judge/load_seconds", "judge/cached")


def timeless(value: Any) -> Any:
    """The report without the times, and without how much of it came from the store."""
    if isinstance(value, dict):
        return {name: timeless(one) for name, one in value.items() if name not in OF_THE_MOMENT}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def as_written(report: Report) -> Any:
    assert report.controls is not None
    found = {"metrics": report.metrics, "rows": report.rows, "controls": report.controls.rows}
    return json.loads(json.dumps({**found, "provenance": report.provenance}))


class Killer:
    """Kills the judging process at chosen requests, before they are answered; counts what reaches the server."""

    def __init__(self, kill_at: set[int]) -> None:
        self.kill_at = kill_at
        self.child: subprocess.Popen[bytes] | None = None
        self.started = threading.Event()
        self.unanswered: list[str] = []

    def choose(self, call: ChatCall) -> Scenario:
        if call.index not in self.kill_at:
            return "score"
        self.started.wait(30)
        assert self.child is not None
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(30)
        self.unanswered.append(json.dumps(call.body["messages"]))
        return "hang_up"

    def run(self, command: list[str]) -> int:
        self.started.clear()
        self.child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
        self.started.set()
        return self.child.wait(120)


@pytest.mark.parametrize("n_kills", [3, pytest.param(20, marks=pytest.mark.statistics)])
def test_a_run_killed_at_random_calls_asks_nothing_twice_and_ends_with_the_same_report(
    n_kills: int, tmp_path: Path
) -> None:
    with FakeOllama() as fake, open_judge(JudgeSpec(host=fake.url)) as opened:
        expected = as_written(judge_responses(SAMPLES, RESPONSES, judge=opened.build_pointwise(), controls=COUNTS))
    questions = Counter(json.dumps(call.body["messages"]) for call in fake.calls)
    # A repeat asks the same in the same words; every other question is asked once.
    assert sum(questions.values()) == N_ITEMS + 14 + 1
    assert sorted(questions.values(), reverse=True)[:3] == [2, 2, 1]

    kill_at = set(random.Random(n_kills).sample(range(len(fake.calls)), n_kills))
    killer = Killer(kill_at)
    out = tmp_path / "report.json"
    with FakeOllama(scenario=killer.choose) as fake:
        command = [sys.executable, "-c", CHILD, fake.url, str(tmp_path / "answers.jsonl"), str(out), "1"]
        codes = []
        while not codes or codes[-1] != 0:
            codes.append(killer.run(command))
            assert len(codes) <= n_kills + 1
    assert codes == [-signal.SIGKILL] * n_kills + [0]
    asked = Counter(json.dumps(call.body["messages"]) for call in fake.calls)
    # Only what had got no answer was asked again.
    assert asked - Counter(killer.unanswered) == questions
    assert timeless(json.loads(out.read_text())) == timeless(expected)


def test_a_run_killed_while_several_answers_are_under_way_loses_those_alone(tmp_path: Path) -> None:
    killer = Killer({17})
    out, store = tmp_path / "report.json", tmp_path / "answers.jsonl"
    with FakeOllama(scenario=killer.choose, seconds=0.02) as fake:
        command = [sys.executable, "-c", CHILD, fake.url, str(store), str(out), "4"]
        assert killer.run(command) == -signal.SIGKILL
        n_kept = sum(line.endswith(b"\n") for line in store.read_bytes().splitlines(keepends=True))
        n_before = len(fake.calls)
        assert killer.run(command) == 0
    assert n_before - n_kept <= 4
    assert len(fake.calls) - n_before == N_ITEMS + 14 + 1 - n_kept
