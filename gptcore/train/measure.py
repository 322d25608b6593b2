"""Speed and memory of a run."""

from __future__ import annotations

import resource
import sys
import time


def peak_rss_mb() -> float:
    """The most memory this process has held so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


class Throughput:
    """Tokens per second between two readings, on the monotonic clock."""

    def __init__(self) -> None:
        """Start counting now."""
        self.started = time.monotonic()
        self.n_tokens = 0
        self._since = self.started
        self._tokens_since = 0

    def add(self, n_tokens: int) -> None:
        """Count tokens."""
        self.n_tokens += n_tokens
        self._tokens_since += n_tokens

    def read(self) -> float:
        """Tokens per second since the last reading; starts the next interval."""
        now = time.monotonic()
        rate = self._tokens_since / max(1e-9, now - self._since)
        self._since, self._tokens_since = now, 0
        return rate

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started
