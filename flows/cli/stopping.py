"""How a command ends that is stopped from outside."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gptcore.errors import InterruptedRun


@contextmanager
def stoppable(name: str) -> Iterator[None]:
    """End with an error of its own when Ctrl-C comes outside a training loop, which saves, or SIGTERM comes at all.

    A flow raises Prefect's exception on SIGTERM, and sends itself the signal again when all is closed.
    """
    stopped = InterruptedRun(f"{name} was stopped; the same command resumes it")

    def stop(number: int, frame: object) -> None:
        del number, frame
        raise stopped

    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if main_thread else None
    try:
        yield
    except KeyboardInterrupt as error:
        raise stopped from error
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, before)
