"""RunLogger: where the numbers of a run go. Whoever opens a run owns its logger; only rank 0 logs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class RunLogger(Protocol):
    """The three things a run says about itself."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Facts that are fixed from the start."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers at an optimizer step; without a step, a summary of the whole run."""
        ...

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file or folder to keep with the run."""
        ...


@dataclass
class MemoryLogger:
    """Keeps everything in lists, for tests and for use without any tracker."""

    params: dict[str, Any] = field(default_factory=dict)
    """All params so far."""
    metrics: list[tuple[int | None, dict[str, float]]] = field(default_factory=list)
    """(step, metrics) in the order they came."""
    artifacts: list[tuple[Path, str]] = field(default_factory=list)
    """(path, folder) in the order they came."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Remember params."""
        self.params.update(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Remember metrics."""
        self.metrics.append((step, dict(metrics)))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Remember the path."""
        self.artifacts.append((path, folder))

    def series(self, name: str) -> list[tuple[int | None, float]]:
        """(step, value) of one metric."""
        return [(step, values[name]) for step, values in self.metrics if name in values]


@dataclass(frozen=True)
class PrefixedLogger:
    """Passes everything on with ``prefix/`` before each name, where one tracked run holds several trainings."""

    inner: RunLogger
    """Where it goes."""
    prefix: str
    """Put before every param, metric and folder."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Pass params on."""
        self.inner.log_params({f"{self.prefix}/{name}": value for name, value in params.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass metrics on."""
        self.inner.log_metrics({f"{self.prefix}/{name}": value for name, value in metrics.items()}, step)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Pass the path on."""
        self.inner.log_artifact(path, f"{self.prefix}/{folder}" if folder else self.prefix)


class JsonlLogger:
    """Appends every metric as a JSON line: the run's own history, independent of any server."""

    def __init__(self, path: Path) -> None:
        """Append to ``path``."""
        self.path = path

    def append(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Add one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a metric history; a torn last line is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").split("\n"):  # not splitlines: a sample may hold U+2028
        try:
            lines.append(json.loads(text))
        except ValueError:
            break  # also the empty text behind the last line
    return lines
