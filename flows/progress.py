"""Progress of long stages: a bar on a terminal, a line now and then where nobody watches live."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from gptcore.train import Progress

log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 15.0
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
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console,
    )


class _Bar:
    def __init__(self, bars: Bars, stage: str) -> None:
        self.bars, self.figures = bars, ""
        self.task = bars.add_task(stage, total=None, figures="")

    def __call__(self, progress: Progress) -> None:
        self.figures = _figures(progress) or self.figures
        self.bars.update(self.task, completed=progress.step, total=progress.n_steps, figures=self.figures)


class _Lines:
    def __init__(self, stage: str) -> None:
        self.stage, self.told, self.figures = stage, time.monotonic(), ""

    def __call__(self, progress: Progress) -> None:
        self.figures = _figures(progress) or self.figures
        now = time.monotonic()
        if now - self.told >= _SECONDS_BETWEEN_LINES or progress.step == progress.n_steps:
            self.told = now
            sys.stderr.write(f"{self.stage}: {progress.step}/{progress.n_steps} {self.figures}\n")
            sys.stderr.flush()


def _figures(progress: Progress) -> str:
    return "  ".join(f"{name} {progress.metrics[name]:.3f}" for name in _SHOWN if name in progress.metrics)
