"""The test server itself: the official client, unchanged, finds in it what it finds in Ollama."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ollama
import pytest

from eval.testing.fake_ollama import FakeOllama, overlap_score

PROMPT = "<<REFERENCE ab>>\none two\n<<END ab>>\n<<ANSWER ab>>\none\n<<END ab>>"
MESSAGES = [{"role": "user", "content": PROMPT}]


def test_the_official_client_reads_every_page() -> None:
    with FakeOllama() as fake:
        client = ollama.Client(fake.url)
        assert [model.model for model in client.list().models] == ["llama3:latest"]
        assert client.ps().models[0].context_length == 8192
        shown = client.show("llama3")
        assert shown.capabilities == ["completion"]
        assert shown.details is not None
        assert shown.details.quantization_level == "Q4_0"
        with pytest.raises(ollama.ResponseError, match='model "phi3" not found, try pulling it first'):
            client.chat("phi3", MESSAGES)
        client.close()


def test_streamed_and_whole_answers_say_the_same() -> None:
    with FakeOllama() as fake:
        client = ollama.Client(fake.url)
        whole = client.chat("llama3", MESSAGES)
        parts = list(client.chat("llama3", MESSAGES, stream=True))
        client.close()
    assert len(parts) > 3
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    text = "".join(part.message.content or "" for part in parts)
    assert text == whole.message.content
    assert json.loads(text)["score"] == overlap_score("one", "one two") == 67
    assert whole.prompt_eval_count == parts[-1].prompt_eval_count == fake.calls[0].n_tokens
    assert [call.index for call in fake.calls] == [0, 1]


def test_it_refuses_what_ollama_refuses() -> None:
    with FakeOllama() as fake:
        client = ollama.Client(fake.url)
        with pytest.raises(ollama.ResponseError, match="does not support thinking"):
            client.chat("llama3", MESSAGES, think=True)
        long = [{"role": "user", "content": "word " * 2000}]
        cut = client.chat("llama3", long, options={"num_ctx": 1024})
        assert cut.prompt_eval_count == 1024 - (1024 - 4) // 2
        client.close()


def test_it_starts_by_hand() -> None:
    command = [sys.executable, "-m", "eval.testing.fake_ollama", "--port", "0", "--model", "tiny:latest"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = next(word for word in line.split() if word.startswith("http")).rstrip(";")
        client = ollama.Client(url)
        assert client.list().models[0].model == "tiny:latest"
        client.close()
        process.send_signal(2)
        assert process.wait(10) == 0
