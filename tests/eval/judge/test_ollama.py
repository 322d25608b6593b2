"""The Ollama backend: what it sends, when it gives up, and how it notices a cut prompt."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from eval.errors import EvalConfigError
from eval.judge.client import CallFailed, JudgeModel, Message, Reply, Retry, retried
from eval.judge.ollama import Deadlines, OllamaClient, Options
from eval.judge.schema import VERDICT_SCHEMA
from eval.testing.fake_ollama import FakeOllama

Connect = Callable[..., OllamaClient]
SMALL = Options(num_ctx=1024, num_predict=64)


def ask(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def test_settings_are_sent_where_the_server_reads_them(connect: Connect) -> None:
    with FakeOllama() as fake:
        reply = connect(fake).chat(ask("hello"), schema=VERDICT_SCHEMA)
    body = fake.calls[0].body
    assert body["options"] == {"seed": 123, "temperature": 0.0, "num_ctx": 8192, "num_predict": 256}
    assert not {"seed", "temperature", "num_ctx", "num_predict"} & body.keys()
    assert body["format"] == VERDICT_SCHEMA
    assert list(body["format"]["properties"]) == ["rationale", "score"]
    assert (body["shift"], body["truncate"], body["stream"]) == (False, False, True)
    assert body["model"] == "llama3:latest"
    assert "think" not in body
    assert (reply.done, reply.done_reason, reply.prompt_tokens) == (True, "stop", fake.calls[0].n_tokens)
    assert reply.load_seconds == pytest.approx(0.001)


def test_thinking_is_switched_off_only_where_it_exists(connect: Connect) -> None:
    with FakeOllama(capabilities=("completion", "thinking")) as fake:
        client = connect(fake)
        client.chat(ask("hello"), schema=VERDICT_SCHEMA)
    assert fake.calls[0].body["think"] is False
    assert client.describe()["think"] is False


def test_the_description_names_digest_versions_and_options_but_no_address(connect: Connect) -> None:
    with FakeOllama() as fake:
        described = connect(fake).describe()
    assert described["model_digest"] == fake.model_digest
    assert described["server_version"] == "0.33.0"
    assert described["quantization"] == "Q4_0"
    assert described["options"]["num_ctx"] == 8192
    assert fake.url not in str(described)


@pytest.mark.parametrize(("scenario", "most"), [("slow", 1.0), ("trickle", 1.5)])
def test_a_server_that_does_not_answer_holds_nobody(connect: Connect, scenario: str, most: float) -> None:
    with FakeOllama(scenario=scenario) as fake:  # type: ignore[arg-type]
        client = connect(fake, deadlines=Deadlines(connect=1.0, read=0.3, total=0.6))
        started = time.monotonic()
        with pytest.raises(CallFailed) as failure:
            client.chat(ask("hello"), schema=VERDICT_SCHEMA)
    assert failure.value.reason == "timeout"
    assert 0.25 < time.monotonic() - started < most


def test_a_server_that_went_away_is_a_failed_connection(connect: Connect) -> None:
    with FakeOllama() as fake:
        client = connect(fake)
    with pytest.raises(CallFailed, match="connection") as failure:
        client.chat(ask("hello"), schema=VERDICT_SCHEMA)
    assert failure.value.reason == "connection"


def test_a_peer_that_takes_the_connection_and_says_nothing_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        judge = JudgeModel(url, "llama3:latest", "d", "0", "Q4_0", "8B", 8192, ())
        client = OllamaClient(judge, deadlines=Deadlines(connect=1.0, read=0.2, total=0.2))
        with pytest.raises(CallFailed, match=r"nothing came for 0\.2 s"):
            client.chat(ask("hello"), schema=VERDICT_SCHEMA)
        client.close()


def test_a_prompt_that_may_be_cut_is_refused_by_a_server_that_knows_shift(connect: Connect) -> None:
    with FakeOllama() as fake, pytest.raises(CallFailed, match="longer than the context length") as failure:
        connect(fake, options=SMALL).chat(ask("word " * 1000), schema=VERDICT_SCHEMA)
    assert failure.value.reason == "truncated"
    assert len(fake.calls) == 1


def test_a_prompt_cut_in_silence_is_noticed_by_its_counted_tokens(connect: Connect) -> None:
    with FakeOllama(scenario="truncated") as fake, pytest.raises(CallFailed, match="counted 514 tokens") as failure:
        connect(fake, options=SMALL).chat(ask("word " * 500), schema=VERDICT_SCHEMA)
    assert failure.value.reason == "truncated"


def test_a_count_too_small_for_the_prompt_is_noticed_too() -> None:
    # A server whose window is smaller than the one it was asked for cuts to half of its own.
    with FakeOllama(scenario="truncated", context_length=512) as fake:
        judge = JudgeModel(fake.url, "llama3:latest", "d", "0", "Q4_0", "8B", None, ())
        client = OllamaClient(judge, options=SMALL)
        with pytest.raises(CallFailed, match="counted 258 tokens for a prompt of 3000 bytes"):
            client.chat(ask("w" * 3000), schema=VERDICT_SCHEMA)
        client.close()


def test_an_error_inside_a_stream_is_told_in_the_servers_words(connect: Connect) -> None:
    with (
        FakeOllama(scenario="midstream_error") as fake,
        pytest.raises(CallFailed, match=r"in the middle .* CUDA error"),
    ):
        connect(fake).chat(ask("hello"), schema=VERDICT_SCHEMA)


def test_a_long_prompt_that_was_read_whole_is_no_failure(connect: Connect) -> None:
    with FakeOllama() as fake:
        reply = connect(fake, options=SMALL).chat(ask("word " * 300), schema=VERDICT_SCHEMA)
    assert reply.prompt_tokens == fake.calls[0].n_tokens == 376


def test_a_prompt_that_cannot_be_cut_may_have_any_count(connect: Connect) -> None:
    # Servers that count only what was not in their cache report few tokens for a prompt they read whole.
    with FakeOllama(scenario="truncated") as fake:
        reply = connect(fake, options=SMALL).chat(ask("word " * 100), schema=VERDICT_SCHEMA)
    assert reply.prompt_tokens == 514


def test_a_prompt_that_cannot_fit_is_not_sent(connect: Connect) -> None:
    with FakeOllama() as fake, pytest.raises(CallFailed, match="9000 bytes cannot fit num_ctx 1024; not sent"):
        connect(fake, options=SMALL).chat(ask("w" * 9000), schema=VERDICT_SCHEMA)
    assert fake.calls == []


def test_the_bound_counts_bytes_and_not_characters(connect: Connect) -> None:
    # 400 characters of 3 bytes: 1200 tokens at worst, more than the window holds.
    with FakeOllama(scenario="truncated") as fake, pytest.raises(CallFailed, match="prompt of 1200 bytes"):
        connect(fake, options=SMALL).chat(ask("€" * 400), schema=VERDICT_SCHEMA)


@pytest.mark.parametrize(("transient", "n_calls"), [(True, 3), (False, 1)])
def test_only_passing_faults_are_retried_and_the_wait_doubles(transient: bool, n_calls: int) -> None:
    instants: list[float] = []

    def call() -> Reply:
        instants.append(time.monotonic())
        raise CallFailed("http_5xx", "busy", transient=transient)

    with pytest.raises(CallFailed, match="http_5xx: busy"):
        retried(call, retry=Retry(attempts=3, first_wait=0.05))
    assert len(instants) == n_calls
    if transient:
        first, second = instants[1] - instants[0], instants[2] - instants[1]
        assert first >= 0.05
        assert second >= 0.1


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(EvalConfigError, match="num_ctx 256 leaves no room for a prompt beside num_predict 256"):
        Options(num_ctx=256)
    with pytest.raises(EvalConfigError, match="deadline read is 0 seconds; it must be above 0"):
        Deadlines(read=0)
