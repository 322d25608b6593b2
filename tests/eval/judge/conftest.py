"""A judge on the fake server, with waits short enough for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from eval.judge.client import Deadlines, Options, Retry
from eval.judge.ollama import OllamaClient
from eval.judge.openai import OpenAIClient
from eval.judge.preflight import preflight_ollama, preflight_openai
from eval.testing.fake_ollama import FakeOllama

Connect = Callable[..., OllamaClient]
_DEADLINES = Deadlines(connect=2.0, read=10.0, idle=10.0, total=20.0, load=10.0)
_RETRY = Retry(attempts=3, first_wait=0.01)


@pytest.fixture
def connect() -> Iterator[Connect]:
    """fake server -> client of it, closed after the test."""
    with ExitStack() as opened:

        def make(
            fake: FakeOllama, *, options: Options | None = None, deadlines: Deadlines | None = None
        ) -> OllamaClient:
            client = OllamaClient(
                preflight_ollama(fake.url, "llama3", options=options),
                options=options,
                deadlines=deadlines or _DEADLINES,
                retry=_RETRY,
            )
            opened.callback(client.close)
            return client

        yield make


@pytest.fixture
def connect_openai() -> Iterator[Callable[..., OpenAIClient]]:
    """fake server -> client of its OpenAI-compatible interface, closed after the test."""
    with ExitStack() as opened:

        def make(
            fake: FakeOllama, *, options: Options | None = None, deadlines: Deadlines | None = None
        ) -> OpenAIClient:
            client = OpenAIClient(
                preflight_openai(f"{fake.url}/v1", "llama3:latest", options=options),
                options=options,
                deadlines=deadlines or _DEADLINES,
                retry=_RETRY,
            )
            opened.callback(client.close)
            return client

        yield make
