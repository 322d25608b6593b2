"""A judge on the fake server, with waits short enough for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from eval.judge.client import Retry
from eval.judge.ollama import Deadlines, OllamaClient, Options
from eval.judge.preflight import preflight
from eval.testing.fake_ollama import FakeOllama

Connect = Callable[..., OllamaClient]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """fake server -> client of it, closed after the test."""
    with ExitStack() as opened:

        def make(
            fake: FakeOllama, *, options: Options | None = None, deadlines: Deadlines | None = None
        ) -> OllamaClient:
            client = OllamaClient(
                preflight(fake.url, "llama3", options=options),
                options=options,
                deadlines=deadlines or Deadlines(connect=2.0, read=10.0, total=20.0),
                retry=Retry(attempts=3, first_wait=0.01),
            )
            opened.callback(client.close)
            return client

        yield make
