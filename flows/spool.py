"""Metrics on their way to a tracking server that may be slow, or down.

Every point is appended to a local JSONL file first and sent later, many at once: one call of 500 points costs about
as much as seven calls of one. The file is emptied after each successful send and removed when nothing is left, so
what it holds is exactly what the server does not have. A process that was killed leaves the file, and the next one
that continues the run sends it: no gap, and no point twice.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BATCH = 1000
"""Most metrics that MLflow takes in one call."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """One value of one metric."""

    name: str
    value: float
    step: int
    time_ms: int
    """Instant at which it was logged, milliseconds since 1970."""


class MetricSpool:
    """Buffers the points of one run and sends them in batches; a failing server costs a warning, never an error."""

    def __init__(
        self,
        send: Callable[[Sequence[Point]], None],
        *,
        path: Path,
        last: Mapping[str, Point] | None = None,
        every_points: int = 1000,
        every_seconds: float = 10.0,
    ) -> None:
        """Continue what an earlier process left in ``path``.

        Args:
            send: delivers at most ``BATCH`` points, or raises.
            path: the JSONL file.
            last: the latest point that the server has of each metric; points up to it are not sent again.
            every_points: send when so many wait.
            every_seconds: send when the last attempt is so long ago; doubled after each failure, up to 5 minutes.
        """
        self.path = path
        self._send = send
        self._last = dict(last or {})
        self._every_points = every_points
        self._every_seconds = every_seconds
        self._patience = every_seconds
        self._tried = time.monotonic()
        self._failing = False
        self._unwritable = False
        path.parent.mkdir(parents=True, exist_ok=True)
        left = _read(path) if path.exists() else []
        self._waiting = [point for point in left if self._is_after_last(point)]
        for point in self._waiting:
            self._last[point.name] = point
        self._rewrite()  # without a line that was cut short, which the next append would run into

    @property
    def unsent(self) -> int:
        """How many points the server does not have yet."""
        return len(self._waiting)

    def add(self, values: Mapping[str, float], *, step: int | None) -> None:
        """Take the values of one step; those of a step that was logged before the run was interrupted are dropped.

        Without a step the value is a summary of the whole run: it goes to the metric's last step, where it counts as
        the latest, and is dropped only when it says nothing new.
        """
        now = int(time.time() * 1000)
        fresh = []
        for name, value in values.items():
            last = self._last.get(name)
            point = Point(name, float(value), (last.step if last else 0) if step is None else step, now)
            old = last is not None and (last.value == point.value if step is None else point.step <= last.step)
            if not old:
                fresh.append(point)
                self._last[name] = point
        self._waiting += fresh
        self._append(fresh)
        enough = self.unsent >= self._every_points and not self._failing
        if enough or time.monotonic() - self._tried >= self._patience:
            self.flush()

    def flush(self) -> bool:
        """Send everything that waits; True when the server has it all."""
        try:
            while self._waiting:
                self._send(self._waiting[:BATCH])
                del self._waiting[:BATCH]
        except Exception as error:  # whatever a client raises, training goes on
            if not self._failing:
                log.warning("metrics cannot be sent (%s); training goes on, they are kept in %s", error, self.path)
            self._failing = True
            self._patience = min(2 * self._patience, 300.0)
        else:
            if self._failing:
                log.warning("metrics are being sent again")
            self._failing, self._patience = False, self._every_seconds
        self._tried = time.monotonic()
        self._rewrite()
        return not self._waiting

    def _is_after_last(self, point: Point) -> bool:
        last = self._last.get(point.name)
        return last is None or (point.step, point.time_ms) > (last.step, last.time_ms)

    def _append(self, points: Sequence[Point]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(_line(point) for point in points)
        except OSError as error:
            self._tell_unwritable(error)

    def _rewrite(self) -> None:
        try:
            if not self._waiting:
                self.path.unlink(missing_ok=True)
                return
            beside = self.path.with_name(f"{self.path.name}.tmp")
            beside.write_text("".join(_line(point) for point in self._waiting), encoding="utf-8")
            beside.replace(self.path)
        except OSError as error:
            self._tell_unwritable(error)

    def _tell_unwritable(self, error: OSError) -> None:
        if not self._unwritable:
            log.warning("%s cannot be written (%s); metrics wait in memory alone until they are sent", self.path, error)
        self._unwritable = True


def _line(point: Point) -> str:
    return json.dumps([point.name, point.value, point.step, point.time_ms]) + "\n"


def _read(path: Path) -> list[Point]:
    points = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            name, value, step, time_ms = json.loads(line)
            points.append(Point(str(name), float(value), int(step), int(time_ms)))
        except (ValueError, TypeError):
            # A process killed in the middle of a line; the step is logged again when training resumes.
            log.warning("%s: line %d is incomplete and was left out", path, number)
    return points
