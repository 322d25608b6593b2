"""Preflight finds the judge, or says in one sentence what to type."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from eval.errors import EvalConfigError, JudgeChanged, JudgeModelMissing, JudgeUnavailable
from eval.judge.assemble import open_ollama_judge
from eval.judge.client import Options
from eval.judge.preflight import preflight_ollama
from eval.testing.fake_ollama import FakeOllama
from eval.types import Sample


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("model", ["llama3", "llama3:latest"])
def test_the_judge_is_found_with_what_identifies_it(model: str) -> None:
    with FakeOllama() as fake:
        judge = preflight_ollama(fake.url, model)
    assert (judge.model, judge.digest, judge.server_version) == ("llama3:latest", fake.model_digest, "0.33.0")
    assert (judge.quantization, judge.parameter_size, judge.context_length) == ("Q4_0", "8.0B", 8192)
    assert judge.capabilities == ("completion",)
    assert judge.url == fake.url


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOllama() as fake:
        monkeypatch.setenv("OLLAMA_HOST", fake.url.removeprefix("http://"))
        assert preflight_ollama(None, "llama3").url == fake.url


def test_a_proxy_in_the_environment_does_not_hide_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with FakeOllama() as fake:
        assert preflight_ollama(fake.url, "llama3").model == "llama3:latest"


def test_a_server_that_is_down_is_told_at_once_with_the_command_that_starts_it() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(JudgeUnavailable, match=rf"no Ollama at {url} .*; start it: ollama serve") as error:
        preflight_ollama(url, "llama3")
    assert time.monotonic() - started < 10
    assert error.value.exit_code == 6


def test_a_missing_model_is_told_with_the_command_that_gets_it() -> None:
    with FakeOllama(model="phi3:mini") as fake, pytest.raises(JudgeModelMissing) as error:
        preflight_ollama(fake.url, "llama3")
    assert "has no model 'llama3' (it has: phi3:mini); get it: ollama pull llama3" in str(error.value)
    assert fake.url in str(error.value)
    assert error.value.exit_code == 6


def test_something_else_on_the_port_is_told_apart() -> None:
    class OtherPage(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *args: object) -> None:
            """Silent."""

    with HTTPServer(("127.0.0.1", 0), OtherPage) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        with pytest.raises(JudgeUnavailable, match="answers, but not as Ollama does"):
            preflight_ollama(f"http://127.0.0.1:{server.server_address[1]}", "llama3")
        server.shutdown()
        thread.join()


def test_a_window_larger_than_the_model_reads_is_refused() -> None:
    with (
        FakeOllama(context_length=2048) as fake,
        pytest.raises(
            EvalConfigError, match=r"expected num_ctx of at most 2048, .* got 8192, .* set num_ctx to 2048 or less"
        ),
    ):
        preflight_ollama(fake.url, "llama3", options=Options())


def test_a_model_that_cannot_chat_is_refused() -> None:
    with (
        FakeOllama(capabilities=("embedding",)) as fake,
        pytest.raises(EvalConfigError, match=r"cannot chat \(it can: embedding\); choose a chat model"),
    ):
        preflight_ollama(fake.url, "llama3")


def test_no_address_is_refused() -> None:
    with pytest.raises(EvalConfigError, match=r"expected a server address .*, got 'http://a:b:c'"):
        preflight_ollama("http://a:b:c", "llama3")


def test_the_whole_judge_is_put_together_and_closed() -> None:
    with FakeOllama() as fake, open_ollama_judge(fake.url, "llama3") as (judge, model):
        assert judge(Sample("x", "Say", "", "one two"), "one").score == 67
        assert judge.describe()["client"]["model_digest"] == model.digest


def test_a_digest_may_be_wanted_and_another_is_refused_with_what_to_do() -> None:
    with FakeOllama() as fake:
        for pin in (fake.model_digest[:12], f"sha256:{fake.model_digest}"):
            assert preflight_ollama(fake.url, f"llama3@{pin}").digest == fake.model_digest
        with pytest.raises(JudgeChanged) as error:
            preflight_ollama(fake.url, "llama3@0123456789ab")
    assert "llama3:latest" in str(error.value)
    assert "with the digest 0123456789ab, got 365c0bd3c000" in str(error.value)
    assert "ollama pull llama3, or accept the new judge: --judge-model llama3:latest@365c0bd3c000" in str(error.value)
    assert error.value.exit_code == 6
