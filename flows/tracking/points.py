"""Which points of a journal are new, and the points themselves.

A training that resumes logs again what it logged after its checkpoint. The steps of each metric only ever grow, so what
is not behind the last point has been there: no point twice, and the curve does not zigzag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """One value of one metric."""

    name: str
    value: float
    step: int
    time_ms: int
    """Instant at which it was logged, milliseconds since 1970."""


class Fold:
    """The points of a run in the order of its journal; the same journal gives the same points every time."""

    def __init__(self, last: Mapping[str, Point] | None = None) -> None:
        """Begin behind ``last``, the latest point of each metric."""
        self._last = dict(last or {})

    def points(self, entry: Mapping[str, Any]) -> list[Point]:
        """The new points of one line.

        Without a step a value is a summary of the whole run: it goes to the metric's last step, where it counts as the
        latest, and is dropped only when its value is not new.
        """
        step, new = entry["step"], []
        for name, value in entry["metrics"].items():
            last = self._last.get(name)
            point = Point(name, float(value), (last.step if last else 0) if step is None else step, entry["time"])
            old = last is not None and (_same(last.value, point.value) if step is None else point.step <= last.step)
            if not old:
                new.append(point)
                self._last[name] = point
        return new


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)
