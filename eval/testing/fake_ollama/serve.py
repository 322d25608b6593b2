"""The fake server by hand, until Ctrl-C."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Collection

from eval.errors import EvalConfigError
from eval.testing.fake_ollama.answers import score_overlap
from eval.testing.fake_ollama.scenarios import SCENARIOS
from eval.testing.fake_ollama.server import FakeOllama


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 11434,
    scenario: str = "score",
    delay: float = 0.0,
    model: str = "llama3:latest",
    also: Collection[str] = (),
    on_start: Callable[[FakeOllama], None] | None = None,
) -> FakeOllama:
    """Serve until Ctrl-C, and return the server with the requests that it got.

    Args:
        host: the address to listen on.
        port: 0 takes a free one.
        scenario: what every request meets; one of ``SCENARIOS``.
        delay: seconds that an answer takes.
        model: the model that it has.
        also: further models, which score alike.
        on_start: called once it answers.

    Raises EvalConfigError for an unknown scenario, a delay below 0, or an address that cannot be listened on.
    """
    if scenario not in SCENARIOS:
        near = difflib.get_close_matches(scenario, SCENARIOS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(SCENARIOS)}"
        raise EvalConfigError(f"expected a scenario of the fake server, got {scenario!r}; {hint}")
    if delay < 0:
        raise EvalConfigError(f"expected a delay of 0 seconds or more, got {delay}")
    tag = model if ":" in model else f"{model}:latest"
    fake = FakeOllama(
        host=host,
        port=port,
        model=tag,
        others={one if ":" in one else f"{one}:latest": score_overlap for one in also},
        scenario=scenario,
        seconds=delay,
    )
    try:
        with fake:
            if on_start is not None:
                on_start(fake)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                return fake
    except (OSError, OverflowError) as error:
        raise EvalConfigError(f"cannot listen on {host}:{port} ({error}); choose another with --port") from error
    return fake
