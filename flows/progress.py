"""Progress of long stages: a bar on a terminal, a line now and then where nobody watches live."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from gptcore.train import Progress

log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 15.0
SECONDS_LEFT = "seconds_left"
"""Metric with the stage's own estimate of what is left, as where answers come from a store; NaN for unknown."""
_SHOWN = ("train/loss", "val/loss", "val/accuracy")


@contextmanager
def progress_bar(stage: str) -> Iterator[Callable[[Progress], None]]:
    """Show the progress of one stage on standard error, as bars or as lines."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _bars(console) as bars:
            yield _Bar(bars, stage)
    else:
        yield _Lines(stage)


def _bars(console: Console) -> Bars:
    return Bars(
        TextColumn("[bold]{task.description:20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeLeft(),
        TextColumn("{task.fields[figures]}"),
        console=console,
    )


class TimeLeft(TimeRemainingColumn):
    """The stage's own estimate, where it has one; elsewhere by the steps so far."""

    def render(self, task: Task) -> Text:
        """The time, or dashes while it is not known."""
        seconds = task.fields.get(SECONDS_LEFT)
        if seconds is None:
            return super().render(task)
        if math.isnan(seconds):
            return Text("-:--:--", style="progress.remaining")
        minutes, rest = divmod(round(seconds), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}", style="progress.remaining")


class _Bar:
    def __init__(self, bars: Bars, stage: str) -> None:
        self.bars, self.figures = bars, ""
        self.task = bars.add_task(stage, total=None, figures="")

    def __call__(self, progress: Progress) -> None:
        self.figures = _figures(progress) or self.figures
        left = progress.metrics.get(SECONDS_LEFT)
        self.bars.update(
            self.task, completed=progress.step, total=progress.n_steps, figures=self.figures, seconds_left=left
        )


class _Lines:
    def __init__(self, stage: str) -> None:
        self.stage, self.last_line, self.figures = stage, time.monotonic(), ""

    def __call__(self, progress: Progress) -> None:
        self.figures = _figures(progress) or self.figures
        now = time.monotonic()
        if now - self.last_line >= _SECONDS_BETWEEN_LINES or progress.step == progress.n_steps:
            self.last_line = now
            seconds = progress.metrics.get(SECONDS_LEFT, math.nan)
            left = f"{seconds:.0f} s left " if seconds > 0 else ""
            sys.stderr.write(f"{self.stage}: {progress.step}/{progress.n_steps} {left}{self.figures}\n")
            sys.stderr.flush()


def _figures(progress: Progress) -> str:
    return "  ".join(f"{name} {progress.metrics[name]:.3f}" for name in _SHOWN if name in progress.metrics)
