"""The Ollama backend: what it sends, when it gives up, and how it notices a cut prompt."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from eval.errors import EvalConfigError, JudgeChanged, JudgeUnavailable
from eval.judge.client import CallFailed, Deadlines, JudgeModel, Message, Options, Reply, Retry, call_with_retry
from eval.judge.ollama import OllamaClient
from eval.judge.preflight import preflight_ollama
from eval.judge.schema import POINTWISE
from eval.testing.fake_ollama import FakeOllama, Scenario

Connect = Callable[..., OllamaClient]
SMALL = Options(num_ctx=1024, num_predict=64)


def ask(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def test_settings_are_sent_where_the_server_reads_them(connect: Connect) -> None:
    with FakeOllama() as fake:
        reply = connect(fake).chat(ask("hello"), schema=POINTWISE.schema)
    body = fake.calls[0].body
    assert body["options"] == {"seed": 123, "temperature": 0.0, "num_ctx": 8192, "num_predict": 256}
    assert not {"seed", "temperature", "num_ctx", "num_predict"} & body.keys()
    assert body["format"] == POINTWISE.schema
    assert list(body["format"]["properties"]) == ["rationale", "score"]
    assert (body["shift"], body["truncate"], body["stream"]) == (False, False, True)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    assert body["model"] == "llama3:latest"
    assert "think" not in body
    assert (reply.done, reply.done_reason, reply.prompt_tokens) == (True, "stop", fake.calls[0].n_tokens)


def test_thinking_is_switched_off_only_where_it_exists(connect: Connect) -> None:
    with FakeOllama(capabilities=("completion", "thinking")) as fake:
        client = connect(fake)
        client.chat(ask("hello"), schema=POINTWISE.schema)
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


@pytest.mark.parametrize(
    ("scenario", "deadlines", "words"),
    [
        ("slow", Deadlines(read=0.3, idle=5, total=9), r"nothing came for 0\.3 s"),
        ("stall", Deadlines(read=5, idle=0.3, total=9), r"nothing more came for 0\.3 s"),
        ("trickle", Deadlines(read=5, idle=5, total=0.3), r"no whole answer within 0\.3 s"),
    ],
)
def test_each_deadline_ends_the_wait_that_it_is_for(
    connect: Connect, scenario: Scenario, deadlines: Deadlines, words: str
) -> None:
    with FakeOllama(scenario=scenario) as fake:
        client = connect(fake, deadlines=deadlines)
        started = time.monotonic()
        with pytest.raises(CallFailed, match=words) as failure:
            client.chat(ask("hello"), schema=POINTWISE.schema)
        waited = time.monotonic() - started
    assert failure.value.reason == "timeout"
    assert 0.25 < waited < 4


def test_a_prompt_that_takes_long_to_read_is_no_idle_answer(connect: Connect) -> None:
    with FakeOllama(scenario="slow", slow_seconds=0.5) as fake:
        client = connect(fake, deadlines=Deadlines(read=5, idle=0.2, total=9))
        assert client.chat(ask("hello"), schema=POINTWISE.schema).done


def test_the_model_is_loaded_once_before_the_first_question_and_its_time_told_apart(connect: Connect) -> None:
    with FakeOllama(load_seconds=0.4) as fake:
        client = connect(fake)
        first, second = (client.chat(ask("hello"), schema=POINTWISE.schema) for _ in range(2))
    assert first.load_seconds == second.load_seconds >= 0.4
    assert max(first.seconds, second.seconds) < 0.3
    (load,) = fake.loads
    # other options than those of the questions would load the model again
    assert all(load[name] == fake.calls[0].body[name] for name in ("model", "options", "shift", "truncate"))


def test_a_model_that_is_never_loaded_ends_the_run_instead_of_every_item(connect: Connect) -> None:
    with FakeOllama(load_seconds=5.0) as fake:
        client = connect(fake, deadlines=Deadlines(load=0.2))
        with pytest.raises(
            JudgeUnavailable, match=r"llama3:latest .* was not loaded within 0\.2 s.* ollama run llama3"
        ):
            client.chat(ask("hello"), schema=POINTWISE.schema)


def test_a_window_smaller_than_the_one_asked_for_is_refused(connect: Connect) -> None:
    with FakeOllama(scenario="small_window") as fake:
        client = connect(fake)
        with pytest.raises(
            EvalConfigError, match=r"expected a window of num_ctx 8192 tokens .*, got 4096 .* set num_ctx to 4096"
        ):
            client.chat(ask("hello"), schema=POINTWISE.schema)


@pytest.mark.parametrize("moved", ["model_digest", "version"])
def test_a_tag_or_a_server_that_moves_in_the_middle_of_a_run_is_noticed(connect: Connect, moved: str) -> None:
    with FakeOllama() as fake:
        client = connect(fake)
        client.verify()
        before = time.monotonic()
        setattr(fake, moved, "f" * 12)
        with pytest.raises(
            JudgeChanged, match=r"with the digest 365c0bd3c000 on server 0\.33\.0, .* run again"
        ) as change:
            client.verify()
        assert change.value.since < before
    with FakeOllama() as fake, closing(OllamaClient(preflight_ollama(fake.url, "llama3"), verify_every=0.0)) as client:
        client.chat(ask("hello"), schema=POINTWISE.schema)
        setattr(fake, moved, "f" * 12)
        with pytest.raises(JudgeChanged):
            client.chat(ask("hello"), schema=POINTWISE.schema)


def test_a_server_that_does_not_answer_has_not_changed(connect: Connect) -> None:
    with FakeOllama() as fake:
        client = connect(fake)
    client.verify()


def test_a_server_that_went_away_is_a_failed_connection(connect: Connect) -> None:
    with FakeOllama() as fake:
        client = connect(fake)
    with pytest.raises(CallFailed, match="connection") as failure:
        client.chat(ask("hello"), schema=POINTWISE.schema)
    assert failure.value.reason == "connection"


def test_a_peer_that_takes_the_connection_and_says_nothing_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        judge = JudgeModel(url, "llama3:latest", "d", "0", "Q4_0", "8B", 8192, ())
        client = OllamaClient(judge, deadlines=Deadlines(connect=1.0, read=0.2, total=0.2, load=0.2))
        with pytest.raises(JudgeUnavailable, match=r"not loaded within 0\.2 s"):
            client.chat(ask("hello"), schema=POINTWISE.schema)
        client.close()


def test_a_prompt_that_may_be_cut_is_refused_by_a_server_that_knows_shift(connect: Connect) -> None:
    with FakeOllama() as fake, pytest.raises(CallFailed, match="longer than the context length") as failure:
        connect(fake, options=SMALL).chat(ask("word " * 1000), schema=POINTWISE.schema)
    assert failure.value.reason == "truncated"
    assert len(fake.calls) == 1


def test_a_prompt_cut_in_silence_is_noticed_by_its_counted_tokens(connect: Connect) -> None:
    with FakeOllama(scenario="truncated") as fake, pytest.raises(CallFailed, match="counted 515 tokens") as failure:
        connect(fake, options=SMALL).chat(ask("word " * 500), schema=POINTWISE.schema)
    assert failure.value.reason == "truncated"


def test_a_count_too_small_for_the_prompt_is_noticed_too() -> None:
    # A server whose window is smaller than the one it was asked for cuts to half of its own.
    with FakeOllama(scenario="truncated", context_length=512) as fake:
        judge = JudgeModel(fake.url, "llama3:latest", "d", "0", "Q4_0", "8B", None, ())
        client = OllamaClient(judge, options=SMALL)
        with pytest.raises(CallFailed, match="counted 259 tokens for a prompt of 3000 bytes"):
            client.chat(ask("w" * 3000), schema=POINTWISE.schema)
        client.close()


def test_an_error_inside_a_stream_is_told_in_the_servers_words(connect: Connect) -> None:
    with (
        FakeOllama(scenario="midstream_error") as fake,
        pytest.raises(CallFailed, match=r"in the middle .* CUDA error"),
    ):
        connect(fake).chat(ask("hello"), schema=POINTWISE.schema)


def test_a_long_prompt_that_was_read_whole_is_no_failure(connect: Connect) -> None:
    with FakeOllama() as fake:
        reply = connect(fake, options=SMALL).chat(ask("word " * 300), schema=POINTWISE.schema)
    assert reply.prompt_tokens == fake.calls[0].n_tokens == 376


def test_a_prompt_that_cannot_be_cut_may_have_any_count(connect: Connect) -> None:
    # Servers that count only what was not in their cache report few tokens for a prompt they read whole.
    with FakeOllama(scenario="truncated") as fake:
        reply = connect(fake, options=SMALL).chat(ask("word " * 100), schema=POINTWISE.schema)
    assert reply.prompt_tokens == 515


def test_a_prompt_that_cannot_fit_is_not_sent(connect: Connect) -> None:
    with FakeOllama() as fake, pytest.raises(CallFailed, match="9000 bytes cannot fit num_ctx 1024; not sent"):
        connect(fake, options=SMALL).chat(ask("w" * 9000), schema=POINTWISE.schema)
    assert fake.calls == []


def test_the_bound_counts_bytes_and_not_characters(connect: Connect) -> None:
    # 400 characters of 3 bytes: 1200 tokens at worst, more than the window holds.
    with FakeOllama(scenario="truncated") as fake, pytest.raises(CallFailed, match="prompt of 1200 bytes"):
        connect(fake, options=SMALL).chat(ask("€" * 400), schema=POINTWISE.schema)


@pytest.mark.parametrize(("transient", "n_calls"), [(True, 3), (False, 1)])
def test_only_passing_faults_are_retried_and_the_wait_doubles(transient: bool, n_calls: int) -> None:
    instants: list[float] = []

    def call() -> Reply:
        instants.append(time.monotonic())
        raise CallFailed("http_5xx", "busy", transient=transient)

    with pytest.raises(CallFailed, match="http_5xx: busy"):
        call_with_retry(call, retry=Retry(attempts=3, first_wait=0.05))
    assert len(instants) == n_calls
    if transient:
        first, second = instants[1] - instants[0], instants[2] - instants[1]
        assert first >= 0.05
        assert second >= 0.1


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(EvalConfigError, match="num_ctx 256 leaves no room for a prompt beside num_predict 256"):
        Options(num_ctx=256)
    with pytest.raises(EvalConfigError, match="expected a deadline 'read' above 0 seconds, got 0"):
        Deadlines(read=0)
