"""Saver: write checkpoints in a thread, from copies, while training continues.

Training stands still only while the copies are made. A write that failed is an error at the next step, never silence;
nothing is written after it, since a position may count on best weights that were to be written before.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from torch import Tensor


class Saver:
    """Runs one write after another."""

    def __init__(self) -> None:
        """Start the thread."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: list[Future[None]] = []

    def submit(self, write: Callable[[], None]) -> None:
        """Write after what was submitted before, unless that fails."""
        self.check()
        before = self._pending[-1] if self._pending else None

        def next_write() -> None:
            if before is None or before.exception() is None:
                write()

        self._pending.append(self._thread.submit(next_write))

    def check(self) -> None:
        """Raise the error of a write that has ended; costs nothing while it is being written."""
        while self._pending and self._pending[0].done():
            self._pending[0].result()  # one that failed stays: whoever asks again gets the error again
            del self._pending[0]

    def wait(self) -> None:
        """Wait until nothing is left to write, and raise the error of what could not be written."""
        wait(self._pending)
        self.check()

    def close(self) -> None:
        """Wait for the write under way, without raising its error, and end the thread."""
        self._thread.shutdown(wait=True)


def copy_to_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in main memory that training will not change."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
