"""A small real model behind a real socket. It never ends an answer by itself, so that tests can count on its length."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from flows.serving import ServeConfig, Served, Server
from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.models import GPTConfig
from gptcore.tokenizer import train_bpe

PAGE = "The keeper counted the ships. Who saw them? The cat saw them, and the fog went out with the tide, as it does. "


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 4,096 positions with the prompt style ``short``."""
    tokenizer = train_bpe([PAGE], vocab_size=300)
    torch.manual_seed(5)
    sizes: dict[str, Any] = {"context_length": 4096, "width": 32, "n_layers": 2, "n_heads": 2, "tied_head": False}
    model = GPTConfig(vocab_size=tokenizer.vocab_size, **sizes).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
        model.norm.bias.fill_(1.0)
        assert isinstance(model.head, torch.nn.Linear)
        model.head.weight[tokenizer.end_of_text] = -1.0
    path = tmp_path_factory.mktemp("served") / "checkpoint"
    spec = ModelSpec(model.config, template="short", tokenizer_digest=tokenizer.digest)
    checkpoint.save(path, model=model, spec=spec, tokenizer=tokenizer)
    return path


@pytest.fixture(scope="session")
def served(talker: Path) -> Served:
    return Served.load(talker, name="keeper")


Serving = Callable[..., Any]


@contextmanager
def running(served: Served, **changes: Any) -> Iterator[str]:
    """The address of a server with these settings, which stops at the end."""
    server = Server(served, ServeConfig(port=0, **changes))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: httpx.get(f"{server.url}/healthz").status_code == 200)
        yield server.url
    finally:
        server.stop()
        thread.join(timeout=60)
        assert not thread.is_alive()


@pytest.fixture
def serving(served: Served) -> Serving:
    """A context manager that serves with other settings."""
    return lambda **changes: running(served, **changes)


@pytest.fixture(scope="module")
def url(served: Served) -> Iterator[str]:
    """The address of a server with four slots."""
    with running(served, slots=4) as address:
        yield address


def until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    pytest.fail("it did not come to be so")


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., None]:
    return until


def metric(url: str, name: str, **headers: str) -> float:
    """A figure of the page of metrics."""
    lines = httpx.get(f"{url}/metrics", headers=headers).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)


@pytest.fixture(name="metric")
def metric_fixture() -> Callable[..., float]:
    return metric
