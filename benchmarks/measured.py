"""Measured: what one process found out about one implementation; and the loop that times a peer's steps.

Imported by every measured process, also from environments without gptcore: the standard library only.
"""

from __future__ import annotations

import json
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NOT_MEASURED = "not_measured"
"""Key of the reason why a process has nothing to report."""


@dataclass(frozen=True)
class Measured:
    """The counted steps of one process."""

    seconds: list[float]
    """Duration of each step."""
    items: list[float]
    """What each step worked off: tokens, examples, target tokens."""
    peak_rss_mb: float
    """Most memory the process held until the last step had ended, in MB (10^6 bytes)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What a reader must know to compare: versions, optimizer, sizes, allocator."""

    @property
    def median_rate(self) -> float:
        """Items per second of the middle step: for steps of equal work."""
        return statistics.median(n / seconds for n, seconds in zip(self.items, self.seconds, strict=True))

    @property
    def total_rate(self) -> float:
        """All items by all seconds: for steps of unequal work over the same rows."""
        return sum(self.items) / sum(self.seconds)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Measured:
        """What ``to_json`` wrote."""
        return Measured(**json.loads(text))


def timed_steps(step: Callable[[int], float], *, warmup: int, n_steps: int, facts: dict[str, Any]) -> Measured:
    """Time ``step(i)``, which returns the items it worked off; the first ``warmup`` calls are not counted."""
    seconds, items = [], []
    for i in range(warmup + n_steps):
        started = time.perf_counter()
        n = step(i)
        if i >= warmup:
            seconds.append(time.perf_counter() - started)
            items.append(n)
    return Measured(seconds, items, peak_rss_mb(), facts)


def peak_rss_mb() -> float:
    """The most memory this program has held, in MB (10^6 bytes).

    Linux carries ``ru_maxrss`` over from the process that started this one; ``VmHWM`` begins anew with the program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
