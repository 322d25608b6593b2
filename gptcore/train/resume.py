"""Find, write and check the checkpoints a run resumes from.

<out>/checkpoints/step-00000120/     model, optimizer, RNG streams, position; the newest ``keep_last`` are kept
<out>/best-00000100/                 the model with the lowest held-out loss so far
"""

from __future__ import annotations

import logging
import random
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptcore.checkpoint import TrainingState
from gptcore.errors import CheckpointError, ConfigError
from gptcore.files import verify_folder

logger = logging.getLogger(__name__)
TORCH_RNG = "rng/torch"


@dataclass
class Position:
    """Where a run stands: everything it needs beside weights, optimizer and random streams."""

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
    identity: dict[str, str] = field(default_factory=dict)
    """Digests of what must not change between two starts: data, tokenizer, configuration."""


def capture_random() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The states of python's, numpy's and torch's global generators, as JSON values and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    values = {
        "python": [version, list(words), gauss],
        "numpy": [kind, [int(k) for k in keys], position, has_gauss, cached],
    }
    return values, {TORCH_RNG: torch.get_rng_state()}


def restore_random(values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Put the captured states back."""
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = values["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors[TORCH_RNG])


def pack(
    position: Position, random_state: tuple[dict[str, Any], dict[str, Tensor]], optimizer: dict[str, Tensor]
) -> TrainingState:
    """One training state from its parts."""
    values, tensors = random_state
    return TrainingState({"position": asdict(position), "random": values}, {**optimizer, **tensors})


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


def prune(out: Path, *, keep_last: int, best_step: int | None) -> None:
    """Delete checkpoints that are neither among the newest nor the best, and what a killed write left behind."""
    for path in _finished(out / "checkpoints")[:-keep_last]:
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
