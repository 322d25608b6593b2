"""The test server itself: the official client, unchanged, finds in it what it finds in Ollama."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import ollama
import pytest

from eval.errors import EvalConfigError
from eval.testing.fake_ollama import SCENARIOS, FakeOllama, Scenario, score_overlap, serve

PROMPT = "<<REFERENCE ab>>\none two\n<<END ab>>\n<<ANSWER ab>>\none\n<<END ab>>"
MESSAGES = [{"role": "user", "content": PROMPT}]


def test_every_scenario_is_described() -> None:
    assert tuple(SCENARIOS) == get_args(Scenario)
    document = (Path(__file__).resolve().parents[2] / "docs" / "fake-ollama.md").read_text(encoding="utf-8")
    assert [f"| `{name}` | {what} |" for name, what in SCENARIOS.items()] == re.findall(
        r"^\| `.*$", document.split("## Scenarios")[1], re.MULTILINE
    )


def test_it_refuses_and_cuts_as_ollama_does() -> None:
    with FakeOllama() as fake:
        client = ollama.Client(fake.url)
        with pytest.raises(ollama.ResponseError, match="does not support thinking"):
            client.chat("llama3", MESSAGES, think=True)
        long = [{"role": "user", "content": "word " * 2000}]
        cut = client.chat("llama3", long, options={"num_ctx": 1024})
        assert cut.prompt_eval_count == 1024 - (1024 - 5) // 2
        client.close()


def test_the_probabilities_of_a_score_are_known() -> None:
    with FakeOllama(score=lambda *_: 50) as fake:
        client = ollama.Client(fake.url)
        answer = client.chat("llama3", MESSAGES, logprobs=True, top_logprobs=3)
        client.close()
    assert answer.logprobs is not None
    assert "".join(one.token for one in answer.logprobs) == answer.message.content
    (score,) = [one for one in answer.logprobs if one.token == "50"]
    assert {one.token: round(math.exp(one.logprob), 3) for one in score.top_logprobs or ()} == {
        "50": 0.5,
        "40": 0.3,
        "60": 0.1,
    }


def test_an_answer_takes_the_time_it_is_told_to() -> None:
    with FakeOllama(seconds=0.3) as fake:
        client = ollama.Client(fake.url)
        started = time.monotonic()
        stream = client.chat("llama3", MESSAGES, stream=True)
        next(iter(stream))
        first = time.monotonic() - started
        list(stream)
        client.close()
    assert 0.15 <= first < time.monotonic() - started
    assert time.monotonic() - started >= 0.3


def test_it_notes_what_was_asked() -> None:
    with FakeOllama(seconds=0.0, scenario="drifting") as fake:
        client = ollama.Client(fake.url)
        scores = [json.loads(client.chat("llama3", MESSAGES).message.content or "")["score"] for _ in range(2)]
        client.chat("llama3", [{"role": "user", "content": "no fences"}])
        client.close()
    assert scores == [score_overlap("one", "one two"), score_overlap("one", "one two") + 7] == [67, 74]
    assert [call.index for call in fake.calls] == [0, 1, 2]
    assert [call.n_seen for call in fake.questions] == [0, 1]
    assert (fake.questions[0].answer, fake.questions[0].reference) == ("one", "one two")


def test_it_can_be_stopped_in_the_middle_of_anything() -> None:
    with FakeOllama(scenario="slow") as fake:
        client = ollama.Client(fake.url, timeout=0.1)
        with pytest.raises(Exception, match="timed out"):
            client.chat("llama3", MESSAGES)
        client.close()
        started = time.monotonic()
    assert time.monotonic() - started < 10


def test_it_serves_by_hand_until_ctrl_c() -> None:
    command = [sys.executable, "-m", "flows", "fake-ollama", "--port", "0", "--model", "tiny", "--scenario", "busy"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "tiny:latest (busy) answers at" in line
        url = next(word for word in line.split() if word.startswith("http")).rstrip(";")
        client = ollama.Client(url)
        assert client.list().models[0].model == "tiny:latest"
        with pytest.raises(ollama.ResponseError, match="server busy"):
            client.chat("tiny", MESSAGES)
        client.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert "1 answers requested" in process.stdout.read()


def test_what_cannot_be_served_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        EvalConfigError, match="expected a scenario of the fake server, got 'bussy'; did you mean 'busy'"
    ):
        serve(scenario="bussy")
    with pytest.raises(EvalConfigError, match="expected a delay of 0 seconds or more, got -1"):
        serve(delay=-1)
    with FakeOllama() as fake:
        port = int(fake.url.rpartition(":")[2])
        with pytest.raises(EvalConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port} .* --port"):
            serve(port=port)
