"""What the server bears: clients that go away, too many at once, large bodies, strangers, and a request to stop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from flows.serving import ServeConfig, Served, Server
from gptcore import checkpoint
from gptcore.errors import CheckpointError, ConfigError

ROOT = Path(__file__).resolve().parents[3]
Serving = Callable[..., Any]


def long_chat(**changes: Any) -> dict[str, Any]:
    """An answer of thousands of tokens."""
    message = {"role": "user", "content": "Who?"}
    return {"model": "keeper", "messages": [message], "temperature": 0, "max_tokens": 4000, **changes}


def short_prompt(**changes: Any) -> dict[str, Any]:
    return {"model": "keeper", "prompt": "The", "temperature": 0, "max_tokens": 4, **changes}


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot(
    serving: Serving, until: Callable[..., None], metric: Callable[..., float], stream: bool
) -> None:
    with serving(slots=1) as url:
        if stream:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=long_chat(stream=True)) as answer:
                lines = answer.iter_lines()
                assert [next(lines) for _ in range(5)]
                assert metric(url, "gptworks_active_slots") == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/v1/chat/completions", json=long_chat(), timeout=0.3)
        until(lambda: metric(url, "gptworks_active_slots") == 0)
        assert metric(url, 'gptworks_answers_total{finish="cancelled"}') == 1
        assert metric(url, "gptworks_generated_tokens_total") < 4000
        assert httpx.post(f"{url}/v1/completions", json=short_prompt(), timeout=60).status_code == 200


def test_too_many_requests_are_told_to_come_again(
    serving: Serving, until: Callable[..., None], metric: Callable[..., float]
) -> None:
    with serving(slots=1, max_queue=1) as url, ThreadPoolExecutor(2) as pool:
        stop = threading.Event()

        def hold() -> None:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=long_chat(stream=True), timeout=60) as answer:
                for _ in answer.iter_lines():
                    if stop.is_set():
                        return

        held = [pool.submit(hold) for _ in range(2)]
        until(lambda: metric(url, "gptworks_active_slots") + metric(url, "gptworks_waiting_requests") == 2)
        refused = httpx.post(f"{url}/v1/completions", json=short_prompt())
        same = httpx.post(f"{url}/api/generate", json={"model": "keeper", "prompt": "x"})
        stop.set()
        for one in held:
            one.result(timeout=60)
        assert (refused.status_code, same.status_code) == (503, 503)
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["type"] == "overloaded_error"
        assert "the server is busy: 2 requests are running or waiting" in same.json()["error"]
        until(lambda: httpx.post(f"{url}/v1/completions", json=short_prompt(), timeout=60).status_code == 200)
        assert metric(url, 'gptworks_http_requests_total{path="/v1/completions",status="503"}') == 1


def test_a_token_is_asked_for_everywhere_but_where_it_is_given(serving: Serving, metric: Callable[..., float]) -> None:
    with serving(token="open-sesame") as url:
        for path in ("/v1/models", "/api/tags", "/metrics", "/nothing"):
            answer = httpx.get(url + path, headers={"Authorization": "Bearer open-sesam"})
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert httpx.get(f"{url}/v1/models").json()["error"]["code"] == "invalid_api_key"
        right = {"Authorization": "Bearer open-sesame"}
        assert httpx.get(f"{url}/v1/models", headers=right).status_code == 200
        assert [httpx.get(url + path).status_code for path in ("/", "/healthz")] == [200, 200]
        assert metric(url, 'gptworks_http_requests_total{path="/v1/models",status="401"}', **right) == 2


def test_bodies_that_are_too_large_or_no_json_are_refused(serving: Serving) -> None:
    with serving(max_body_bytes=500) as url:
        large = httpx.post(f"{url}/api/generate", json={"model": "keeper", "prompt": "x" * 500})
        assert (large.status_code, large.json()["error"][:31]) == (413, "the body is larger than 500 byt")
        chunked = httpx.post(f"{url}/v1/completions", content=iter([b"x" * 300, b"y" * 300]))
        assert (chunked.status_code, chunked.json()["error"]["type"]) == (413, "invalid_request_error")
        for body in (b"{", b"[1]", b"\xff", b"[" * 400):
            assert httpx.post(f"{url}/v1/completions", content=body).status_code == 400


def test_a_stranger_by_name_and_an_unknown_path_are_refused(url: str) -> None:
    """A page of the internet whose name points at this machine does not reach the model."""
    assert httpx.get(f"{url}/api/tags", headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(f"{url}/api/pull").json() == {"error": "Not Found"}
    assert httpx.get(f"{url}/v1/chat/completions").json()["error"]["message"] == "Method Not Allowed"
    assert httpx.head(url).status_code == 200


def test_a_model_that_fails_ends_the_answer_and_not_the_server(served: Served, serving: Serving) -> None:
    head = served.text.model.head
    assert isinstance(head, torch.nn.Linear)
    before = head.weight.detach().clone()
    with serving() as url:
        try:
            with torch.no_grad():
                head.weight.fill_(float("nan"))
            whole = httpx.post(f"{url}/v1/chat/completions", json=long_chat())
            lines = httpx.post(f"{url}/api/generate", json={"model": "keeper", "prompt": "x"}).text.splitlines()
        finally:
            with torch.no_grad():
                head.weight.copy_(before)
        assert (whole.status_code, whole.json()["error"]["type"]) == (500, "server_error")
        assert "the model gives NaN or infinite logits" in lines[-1]
        assert httpx.post(f"{url}/v1/completions", json=short_prompt(), timeout=60).status_code == 200


def test_a_server_that_is_told_to_stop_finishes_what_it_has_begun(served: Served, until: Callable[..., None]) -> None:
    server = Server(served, ServeConfig(port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: httpx.get(f"{server.url}/healthz").status_code == 200)
    asked = long_chat(stream=True, max_tokens=200)
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=asked, timeout=60) as answer:
        lines = answer.iter_lines()
        seen = [next(lines) for _ in range(3)]
        server.stop()
        seen += list(lines)
    thread.join(timeout=60)
    assert seen[-2:] == ["data: [DONE]", ""]
    assert any('"finish_reason": "length"' in line for line in seen)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/healthz")


def test_what_is_not_finished_in_time_is_cancelled(served: Served, until: Callable[..., None]) -> None:
    server = Server(served, ServeConfig(port=0, drain_seconds=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: httpx.get(f"{server.url}/healthz").status_code == 200)
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=long_chat(stream=True), timeout=60) as answer:
        next(answer.iter_lines())
        server.stop()
        thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.services
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_command_serves_until_a_signal_and_ends_well(talker: Path, number: int) -> None:
    command = [sys.executable, "-m", "flows", "serve", str(talker), "--port", "0", "--name", "keeper", "--exact"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        found = re.search(r"http://127\.0\.0\.1:\d+", lines[1])
        assert found, lines
        assert httpx.post(f"{found[0]}/v1/completions", json=short_prompt(), timeout=60).status_code == 200
        process.send_signal(number)
        assert process.stdout.read() == "stopped\n"
        assert process.wait(timeout=60) == 0


def test_an_address_that_is_taken_is_refused(served: Served, url: str) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port} \(Address already in use"):
        Server(served, ServeConfig(port=port))


def test_a_model_with_another_tokenizer_is_refused(talker: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    loaded = checkpoint.load(talker)
    checkpoint.save(
        other, model=loaded.model, spec=loaded.spec, tokenizer=loaded.tokenizer.with_special_tokens(["<|x|>"])
    )
    with pytest.raises(CheckpointError, match=r"model.json was written for tokenizer [0-9a-f]+, but the folder"):
        Served.load(other, name="keeper")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"slots": 0}, "expected slots of at least 1, got 0"),
        ({"max_queue": -1}, "expected max_queue of 0 or more, got -1"),
        ({"port": 70_000}, "expected port from 0 to 65535, got 70000"),
        ({"token": "a b"}, "expected token of ASCII characters without blanks"),
    ],
)
def test_settings_that_mean_nothing_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeConfig(**bad)


def test_time_to_the_first_token_and_between_tokens_is_measured(url: str, metric: Callable[..., float]) -> None:
    names = ("time_to_first_token", "time_per_token", "answer")
    before = [metric(url, f"gptworks_{name}_seconds_count") for name in names]
    assert httpx.post(f"{url}/v1/completions", json=short_prompt(max_tokens=7), timeout=60).status_code == 200
    after = [metric(url, f"gptworks_{name}_seconds_count") for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 6, 1]
    assert metric(url, "gptworks_answer_seconds_sum") > 0
