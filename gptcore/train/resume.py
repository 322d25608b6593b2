"""Where a run stands, and the checkpoints it resumes from.

<out>/checkpoints/step-00000120/     model, optimizer, position; the newest ``keep_last`` are kept, and each
                                     ``keep_every`` steps one for good
<out>/best-00000100/                 the model with the lowest held-out loss so far
"""

from __future__ import annotations

import logging
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptcore.errors import CheckpointError, ConfigError
from gptcore.files import verify_folder

logger = logging.getLogger(__name__)


@dataclass
class Position:
    """Where a run stands: everything it needs beside weights and optimizer."""

    step: int = 0
    """Optimizer steps done."""
    n_tokens: int = 0
    """Input tokens seen."""
    best_step: int | None = None
    """Step with the lowest held-out loss."""
    best_loss: float | None = None
    """That loss, nats."""
    skipped: int = 0
    """Updates skipped because loss or gradient was not finite."""
    skipped_in_row: int = 0
    """Of these, the last ones without a good update between."""
    window_total: float = 0.0
    """Sum of the losses since the last logged line."""
    window_count: int = 0
    """Items in that sum."""
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the last good steps, by which a spike is known."""
    data_offset: int = 0
    """Steps' worth of data that rollbacks have passed over."""
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    """Each return to an earlier checkpoint: ``at`` and ``to`` (steps), ``reason``."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of the loss scaling, where precision is fp16."""
    identity: dict[str, str] = field(default_factory=dict)
    """Digests of what must not change between two starts: data, tokenizer, configuration."""


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed python's, numpy's and torch's global generators for one step of one process.

    The streams of a step are thereby functions of (seed, step, process), as its data is: nothing of them has to be
    saved, and no restart, no evaluation between and no change of the processes' number can shift them.
    """
    python, numpy, first, second = (int(word) for word in np.random.SeedSequence([seed, step, rank]).generate_state(4))
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(first << 31 ^ second)


def check_identity(saved: dict[str, str], now: dict[str, str], *, folder: Path) -> None:
    """Refuse to go on with something else than before.

    Raises:
        ConfigError: names every part that differs.
    """
    changed = [name for name in now if saved.get(name) != now[name]]
    if changed:
        parts = "; ".join(f"{name} was {saved.get(name, 'absent')[:12]}, is {now[name][:12]}" for name in changed)
        raise ConfigError(
            f"the run in {folder} was started with other settings: {parts}. "
            "Choose another output folder, or delete this one to start afresh"
        )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that verifies; damaged ones are set aside under ``.damaged`` with a warning."""
    for path in reversed(_finished(folder)):
        try:
            verify_folder(path, CheckpointError)
            return path
        except CheckpointError as error:
            aside = path.with_name(f"{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            logger.warning("%s; it was set aside as %s and the checkpoint before it is used", error, aside.name)
    return None


def prune(out: Path, *, keep_last: int, best_step: int | None, keep_every: int | None = None) -> None:
    """Delete checkpoints that are neither the newest, nor the best, nor for good, and what a killed write left."""
    for path in _finished(out / "checkpoints")[: -keep_last or None]:
        if keep_every is None or int(path.name.removeprefix("step-")) % keep_every:
            shutil.rmtree(path)
    for path in out.glob("best-*"):
        if best_step is None or path.name != f"best-{best_step:08d}":
            shutil.rmtree(path)
    for folder in (out, out / "checkpoints"):
        for path in [*folder.glob("*.tmp-*"), *folder.glob("*.old-*")]:
            shutil.rmtree(path, ignore_errors=True)


def _finished(folder: Path) -> list[Path]:
    """Checkpoints under their final names, oldest first; not what a killed write left beside them."""
    return sorted(path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit())
