"""Saver: write checkpoints in a thread, from copies, while training goes on.

Training stands still only while the copy is made. One write is under way at most: who comes earlier waits, so that no
more than one copy is held. A write that failed is an error at the next step, never silence.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor


class Saver:
    """Runs one write after another."""

    def __init__(self) -> None:
        """Start the thread."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Write when the write before has ended, whose error is raised here."""
        self.wait()
        self._pending = self._thread.submit(write)

    def check(self) -> None:
        """Raise the error of a write that has ended; costs nothing while it goes on."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is left to write, and raise the error of what could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait for the write under way, without raising its error, and end the thread."""
        self._thread.shutdown(wait=True)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in main memory that training will not change."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
