"""Time, memory and energy of a run."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Literal, Protocol

from gptcore.models.work import Work
from gptcore.train.logger import RunLogger


def peak_rss_mb() -> float:
    """The most memory this process has held so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


@dataclass
class _Spent:
    """What some steps took, and what was done in them."""

    seconds: float = 0.0
    waiting: float = 0.0
    computing: float = 0.0
    n_tokens: int = 0
    flop: float = 0.0

    def add(self, other: _Spent) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def metrics(self, ceiling: float | None) -> dict[str, float]:
        if self.seconds <= 0:
            return {}
        metrics = {
            "perf/tokens_per_second": self.n_tokens / self.seconds,
            "perf/data_wait_share": self.waiting / self.seconds,
            "perf/overhead_share": 1 - self.computing / self.seconds,
        }
        return metrics if ceiling is None else metrics | {"perf/mfu": self.flop / self.seconds / ceiling}


class StepClock:
    """Where the time of the steps goes, on the monotonic clock of this process; costs microseconds a step."""

    def __init__(self, work: Work, *, now: Callable[[], float] = time.monotonic) -> None:
        """For steps of this work, by the clock ``now`` (seconds); ``start`` comes before the first."""
        self._work, self._now = work, now
        self.start()

    def start(self, *, ceiling: float | None = None) -> None:
        """Begin anew.

        Args:
            ceiling: FLOP/s of which a utilization is a share; without it there is none.
        """
        self._ceiling = ceiling
        self._started = self._since = self._now()
        self._interval, self._all = _Spent(), _Spent()

    @contextmanager
    def time_wait(self) -> Iterator[None]:
        """Inside, the step's batch is waited for."""
        begun = self._now()
        yield
        self._interval.waiting += self._now() - begun

    @contextmanager
    def time_compute(self) -> Iterator[None]:
        """Inside is a forward pass, a backward pass, or the optimizer's update with the clipping before it."""
        begun = self._now()
        yield
        self._interval.computing += self._now() - begun

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Inside is an evaluation, whose time is not counted as a step's."""
        begun = self._now()
        yield
        self._since += self._now() - begun

    def add(self, *, n_tokens: int, n_items: int, n_rows: int) -> None:
        """Count a step over all processes: input tokens, items of the loss, samples."""
        self._interval.n_tokens += n_tokens
        self._interval.flop += self._work.flop(n_tokens=n_tokens, n_items=n_items, n_rows=n_rows)

    def read(self) -> dict[str, float]:
        """Metrics of the steps since the last reading; the next interval begins."""
        now = self._now()
        self._interval.seconds = now - self._since
        metrics = self._interval.metrics(self._ceiling)
        self._all.add(self._interval)
        self._since, self._interval = now, _Spent()
        return metrics

    def summary(self) -> dict[str, float]:
        """Metrics of all steps that were read, the seconds since the start and the most memory held."""
        metrics = self._all.metrics(self._ceiling)
        if self._ceiling is not None:
            metrics["perf/gemm_gflops"] = self._ceiling / 1e9
        return metrics | {"perf/seconds": self._now() - self._started, "perf/peak_rss_mb": peak_rss_mb()}


class EnergyMeter(Protocol):
    """Reads or estimates the energy that the machine takes; what can is outside of this package."""

    source: Literal["measured", "estimated"]
    """Whether every part is read from a counter; known after ``start``."""

    def start(self) -> None:
        """Begin to count."""
        ...

    def stop(self) -> float | None:
        """The kWh since ``start``; None if they are not known after all."""
        ...


@contextmanager
def log_energy(meter: EnergyMeter | None, log: RunLogger) -> Iterator[None]:
    """Log the energy that the block takes, also one that is stopped: ``perf/energy_kwh``, and ``energy``."""
    if meter is None:
        yield
        return
    meter.start()
    try:
        yield
    finally:
        kwh = meter.stop()
        if kwh is not None:
            log.log_params({"energy": meter.source})
            log.log_metrics({"perf/energy_kwh": kwh})
