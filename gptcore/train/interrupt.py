"""Stop a run between two steps when the user or the system asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Whether a stop was asked for, and by which signal."""

    signal_name: str | None = None
    """Name of the signal that came, for example ``SIGINT``."""


@contextmanager
def stop_requests(*, patient: bool = False) -> Iterator[StopRequest]:
    """Turn the first SIGINT (and SIGTERM, where nobody else handles it) into a request; a second one acts as usual.

    ``patient`` also takes the ones after: a process among many gets the terminal's signal and its launcher's, and must
    not die before all have saved.

    Outside the main thread no handler can be set, and the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    watched = [signal.SIGINT]
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        watched.append(signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in watched}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, _frame: FrameType | None) -> None:
        request.signal_name = signal.Signals(number).name
        if not patient:
            restore()

    for number in watched:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()


@contextmanager
def defer_sigterm() -> Iterator[None]:
    """Let SIGTERM wait until the block is left, and then act as it would have.

    An orchestrator's handler raises an exception wherever the program is; in the middle of an update that would leave
    weights that belong to no step. Outside the main thread no handler can be set, and nothing is held back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if came:
            signal.raise_signal(signal.SIGTERM)
