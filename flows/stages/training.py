"""What the stages that train share: a ``Run`` is executed, its history drawn, its ledger kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.figures.svg import loss_figure
from flows.launch.launcher import train as train_run
from flows.stages.context import Context
from gptcore.data import Instructions, LabelledText, Ledger
from gptcore.run import Run
from gptcore.train import TrainResult
from gptcore.train.logger import PrefixedLogger, read_history

CHECKPOINT = "run/checkpoint"
"""Where a training stage leaves its model, relative to its output folder."""


def execute(run: Run, context: Context, *, folder: str = "run") -> TrainResult:
    """Train, and keep history, settings and checkpoint with the tracked run."""
    out = context.folder / folder
    log = context.log if folder == "run" else PrefixedLogger(context.log, prefix=folder)
    result = train_run(run, out, log, launch=context.launch, on_progress=context.on_progress)
    history = read_history(out / "metrics.jsonl")
    context.log.log_figure(loss_figure(history), f"figures/loss-{folder}.png")
    context.log.log_artifact(out / "run.json", folder)
    context.log.log_artifact(result.path, folder)
    return result


def save_ledger(folder: Path, parts: Sequence[LabelledText | Instructions]) -> None:
    """One ledger of all parts of the data that a training has read."""
    ledger = Ledger()
    for part in parts:
        ledger.merge(part.open().ledger)
    ledger.save(folder / "ledger.json")
