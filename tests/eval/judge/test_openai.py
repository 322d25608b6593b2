"""The OpenAI-compatible backend: what it sends, what it reads, and the same failures as on Ollama."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from eval.errors import EvalConfigError, JudgeChanged, JudgeModelMissing, JudgeUnavailable
from eval.judge.client import CallFailed, Deadlines, Message, Options
from eval.judge.openai import OpenAIClient
from eval.judge.preflight import preflight_openai
from eval.judge.schema import POINTWISE
from eval.judge.transport import HttpResponse, make_refusal
from eval.testing.fake_ollama import FakeOllama, Scenario

Connect = Callable[..., OpenAIClient]
SMALL = Options(num_ctx=1024, num_predict=64)


def ask(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def test_the_request_has_the_form_of_the_interface(connect_openai: Connect) -> None:
    with FakeOllama() as fake:
        reply = connect_openai(fake).chat(ask("hello"), schema=POINTWISE.schema)
    body = fake.calls[0].body
    assert body["response_format"]["json_schema"]["schema"] == POINTWISE.schema
    assert (body["seed"], body["temperature"], body["max_tokens"]) == (123, 0.0, 256)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    assert body["stream_options"] == {"include_usage": True}
    assert not {"options", "format", "shift"} & body.keys()
    assert (reply.done_reason, reply.prompt_tokens) == ("stop", fake.calls[0].n_tokens)
    assert reply.answer_tokens
    assert json.loads(reply.content).keys() == {"rationale", "score"}


def test_the_key_is_sent_and_told_to_nobody(connect_openai: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    with FakeOllama() as fake:
        client = connect_openai(fake)
        assert client._http.headers["Authorization"] == "Bearer a-secret"
        assert "a-secret" not in json.dumps(client.describe())


def test_a_model_is_described_by_its_address_and_what_the_server_says_of_it(connect_openai: Connect) -> None:
    with FakeOllama() as fake:
        one, again = connect_openai(fake).describe(), connect_openai(fake).describe()
        fake.model_digest = "f" * 64
        other = connect_openai(fake).describe()
    assert one == again
    assert one["url"] == f"{fake.url}/v1"
    assert other["model_digest"] != one["model_digest"]


def test_a_model_that_changes_in_the_middle_of_a_run_is_noticed(connect_openai: Connect) -> None:
    with FakeOllama() as fake:
        client = connect_openai(fake)
        client.verify()
        fake.model_digest = "f" * 64
        with pytest.raises(JudgeChanged, match=r"expected llama3:latest at .* of the run's start, got"):
            client.verify()
        fake.model = "phi3:mini"
        with pytest.raises(JudgeChanged, match="got gone"):
            client.verify()
    client.verify()


def test_a_prompt_that_is_too_long_is_refused_in_the_servers_words(connect_openai: Connect) -> None:
    with (
        FakeOllama(context_length=1024) as fake,
        pytest.raises(CallFailed, match="maximum context length is 1024 tokens") as failure,
    ):
        connect_openai(fake, options=SMALL).chat(ask("word " * 1000), schema=POINTWISE.schema)
    assert failure.value.reason == "truncated"


def test_a_prompt_cut_in_silence_is_noticed_by_its_counted_tokens(connect_openai: Connect) -> None:
    with (
        FakeOllama(scenario="truncated", context_length=1024) as fake,
        pytest.raises(CallFailed, match="counted 515 tokens") as failure,
    ):
        connect_openai(fake, options=SMALL).chat(ask("word " * 500), schema=POINTWISE.schema)
    assert failure.value.reason == "truncated"


@pytest.mark.parametrize(
    ("scenario", "deadlines", "words"),
    [
        ("slow", Deadlines(read=0.3, idle=5, total=9), r"nothing came for 0\.3 s"),
        ("stall", Deadlines(read=5, idle=0.3, total=9), r"nothing more came for 0\.3 s"),
        ("trickle", Deadlines(read=5, idle=5, total=0.3), r"no whole answer within 0\.3 s"),
    ],
)
def test_each_deadline_ends_the_wait_that_it_is_for(
    connect_openai: Connect, scenario: Scenario, deadlines: Deadlines, words: str
) -> None:
    with FakeOllama(scenario=scenario) as fake, pytest.raises(CallFailed, match=words):
        connect_openai(fake, deadlines=deadlines).chat(ask("hello"), schema=POINTWISE.schema)


@pytest.mark.parametrize(
    ("status", "content", "reason", "transient"),
    [
        (400, b'{"error": {"message": "bad", "code": 1}}', "http_4xx", False),
        (400, b'{"error": {"code": "x", "message": "context_length_exceeded: 9000"}}', "truncated", False),
        (401, b'{"error": {"message": "no key"}}', "http_4xx", False),
        (429, b"slow down", "http_4xx", True),
        (500, b'{"error": "died"}', "http_5xx", True),
        (503, b"\xff" * 2000, "http_5xx", True),
    ],
)
def test_refusals_of_every_shape_are_typed(status: int, content: bytes, reason: str, transient: bool) -> None:
    failure = make_refusal(HttpResponse(status, content))
    assert (failure.reason, failure.transient) == (reason, transient)
    assert len(failure.detail) < 600


def test_preflight_tells_what_is_wrong_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOllama() as fake:
        with pytest.raises(JudgeModelMissing, match=r"no model 'gpt-9' \(it has: llama3:latest\); name one of them"):
            preflight_openai(f"{fake.url}/v1", "gpt-9")
        with pytest.raises(JudgeUnavailable, match=r"it mostly ends in /v1"):
            preflight_openai(fake.url, "llama3:latest")
        pinned = preflight_openai(f"{fake.url}/v1", "llama3:latest")
        assert preflight_openai(f"{fake.url}/v1", f"llama3:latest@{pinned.digest[:12]}") == pinned
        with pytest.raises(JudgeChanged, match="with the digest 0123456789ab, got"):
            preflight_openai(f"{fake.url}/v1", "llama3:latest@0123456789ab")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{fake.url}/v1")
        assert preflight_openai(None, "llama3:latest").url == f"{fake.url}/v1"
    with pytest.raises(JudgeUnavailable, match="does not answer as an OpenAI-compatible server does"):
        preflight_openai(f"{fake.url}/v1", "llama3:latest")
    for address in ("ftp://a", "http://", "http://a:b:c"):
        with pytest.raises(EvalConfigError, match="expected a server address"):
            preflight_openai(address, "llama3:latest")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"data: [DONE]\n\n",
        b"data: {}\n\ndata: [DONE]\n\n",
        b"data: []\n\n",
        b'data: {"choices": [null]}\n\n',
        b'data: {"choices": [{"delta": {"content": 5}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n',
        b'data: {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n',
        b'data: {"error": {"message": "it broke"}}\n\n',
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_not_whole_is_no_answer(content: bytes) -> None:
    from eval.judge.openai import _read_reply

    with pytest.raises(CallFailed) as failure:
        _read_reply(HttpResponse(200, content), seconds=0.1)
    assert failure.value.reason == "not_done"


def test_events_of_other_kinds_are_passed_over() -> None:
    from eval.judge.openai import _read_reply

    event: dict[str, Any] = {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}
    content = b": keep-alive\n\nevent: message\nid: 1\n" + f"data:{json.dumps(event)}\n\ndata: [DONE]\n\n".encode()
    assert _read_reply(HttpResponse(200, content), seconds=0.1).content == "x"
