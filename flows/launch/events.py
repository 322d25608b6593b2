"""Events of training processes, on their way to the process that started them: JSON lines in a folder both see.

    <folder>/rank-0.jsonl       params, metrics, progress and warnings, and how it ended
    <folder>/rank-3.jsonl       how another process failed
    <folder>/agent-HOST.jsonl   which process torchrun saw die, and of what

So one process alone talks to MLflow: a run is opened and closed once, points that a restarted training logs again are
dropped where they always are (``flows/tracking/points.py``), and a slow tracking server delays nobody. A file
outlives both sides, and one on a shared folder needs no connection between the machines. Each line is written by
opening the file, appending and closing it, which is what makes it visible through NFS.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptcore.errors import GptcoreError
from gptcore.train import Progress, RunLogger, TrainResult

_SECONDS_BETWEEN_PROGRESS = 0.2

log = logging.getLogger(__name__)

Event = dict[str, Any]
"""``kind``, and what belongs to that kind."""


@dataclass
class EventWriter:
    """Appends events to a file; a ``RunLogger`` for the training whose process it belongs to."""

    path: Path
    """The file; it may hold events from before a restart."""
    _last_progress: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """End a line that a killed process left torn."""
        if self.path.exists():
            self._append("\n")

    def write(self, kind: str, **what: Any) -> None:
        """Append one event."""
        self._append(json.dumps({"kind": kind, **what}, default=str) + "\n")

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write parameters that are fixed from the start."""
        self.write("params", params=dict(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write metrics."""
        self.write("metrics", metrics={name: float(value) for name, value in metrics.items()}, step=step)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Write where an artifact to keep is."""
        self.write("artifact", path=str(path), folder=folder)

    def progress(self, progress: Progress) -> None:
        """Write the progress, a few times a second at most."""
        now = time.monotonic()
        due = now - self._last_progress >= _SECONDS_BETWEEN_PROGRESS
        if due or progress.metrics or progress.step == progress.n_steps:
            self._last_progress = now
            self.write("progress", progress=progress)

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)


class WarningHandler(logging.Handler):
    """Writes warnings as events instead of to a terminal."""

    def __init__(self, writer: EventWriter) -> None:
        """Write through ``writer``."""
        super().__init__(logging.WARNING)
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self._writer.write("warning", logger=record.name, level=record.levelno, text=record.getMessage())


@dataclass
class EventReader:
    """Reads the events of one training's processes and passes them on to its logger and progress bar."""

    folder: Path
    """Where they write."""
    log: RunLogger
    """The tracked run."""
    on_progress: Callable[[Progress], None]
    """Progress bar."""
    errors: list[Event] = field(default_factory=list)
    """What ended processes, in the order it was read: events ``error``, ``died`` and ``apart``."""
    result: TrainResult | None = None
    """What rank 0 ended with."""
    _offsets: dict[Path, int] = field(default_factory=dict, init=False)

    def read(self) -> None:
        """Pass on every new event."""
        for path in sorted(self.folder.glob("*.jsonl")):
            for event in self._new(path):
                self._dispatch(event)

    def recover(self) -> None:
        """Pass on the numbers of an attempt that ended before all of them were read.

        Without them the tracked run would have a gap, as training resumes from a checkpoint that may lie behind them.
        Those that were read before are dropped by the tracked run.
        """
        for event in self._new(self.folder / "rank-0.jsonl"):
            if event["kind"] in ("params", "metrics"):
                self._dispatch(event)

    def _new(self, path: Path) -> Iterator[Event]:
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            for line in file:
                if not line.endswith(b"\n"):  # the rest of it is not there yet
                    return
                self._offsets[path] = self._offsets.get(path, 0) + len(line)
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # torn by a kill; training writes it again when it resumes
                yield event

    def _dispatch(self, event: Event) -> None:
        match event["kind"]:
            case "params":
                self.log.log_params(event["params"])
            case "metrics":
                self.log.log_metrics(event["metrics"], step=event["step"])
            case "artifact":
                self.log.log_artifact(Path(event["path"]), event["folder"])
            case "progress":
                self.on_progress(Progress(*event["progress"]))
            case "warning":
                logging.getLogger(event["logger"]).log(event["level"], "%s", event["text"])
            case "attempt":
                if event["n"] > 0:
                    log.warning("a process died; all were started again (restart %d)", event["n"])
            case "result":
                self.result = TrainResult(Path(event["path"]), event["metrics"])
            case _:
                self.errors.append(event)


def to_event(error: BaseException) -> Event:
    """An error as it travels between processes."""
    return {"type": type(error).__name__, "text": str(error), "pid": os.getpid()}


def to_error(event: Event) -> GptcoreError | None:
    """The error of an event, if it is one of gptcore's own; None otherwise."""
    waiting = [GptcoreError]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == event.get("type"):
            return kind(event["text"])
        waiting += kind.__subclasses__()
    return None
