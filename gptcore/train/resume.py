"""Where a run stands, and the checkpoints it resumes from.

<out>/checkpoints/step-00000120/     model, optimizer, position; the newest ``keep_last`` are kept, and each
                                     ``keep_every`` steps one for good
<out>/checkpoints/stop-00000131/     the same where a run was stopped between two of them; the next one replaces it
<out>/best-00000100/                 the model with the lowest held-out loss so far

A rollback returns to a ``step-`` alone: where a run was stopped must not decide where it goes back to.
"""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptcore.data.base import Data, Source
from gptcore.errors import CheckpointError, ConfigError
from gptcore.files import clear_leftovers, remove_folder, verify_folder

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
    window_sums: list[float] = field(default_factory=list)
    """Sum of the losses since the last logged line, for each part; empty where there was none yet."""
    window_counts: list[int] = field(default_factory=list)
    """Items in these sums."""
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the last good steps, by which a spike is known."""
    data_offset: int = 0
    """Steps' worth of data that rollbacks have passed over."""
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    """Each return to an earlier checkpoint: ``at`` and ``to`` (steps), ``reason``."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of the loss scaling, where precision is fp16."""
    written: dict[str, int] = field(default_factory=dict)
    """Bytes of the run's own history and samples until here, by file name."""
    identity: dict[str, Any] = field(default_factory=dict)
    """What must not change between two starts: data, tokenizer, initial weights, configuration."""

    @classmethod
    def from_saved(cls, values: dict[str, Any]) -> Position:
        """The position in a checkpoint; those written when a loss had one part alone hold one sum."""
        if "window_total" in values:
            values = dict(values)
            values["window_sums"] = [values.pop("window_total")]
            values["window_counts"] = [values.pop("window_count")]
        return cls(**values)

    def add_losses(self, sums: Sequence[float], counts: Sequence[int]) -> None:
        """Add a step's losses to those since the last logged line."""
        before = zip(self.window_sums or [0.0] * len(sums), self.window_counts or [0] * len(counts), strict=True)
        pairs = [(a + total, b + count) for (a, b), total, count in zip(before, sums, counts, strict=True)]
        self.window_sums, self.window_counts = [total for total, _ in pairs], [count for _, count in pairs]


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed python's, numpy's and torch's global generators for one step of one process.

    The streams of a step are thereby functions of (seed, step, process), as its data is: nothing of them has to be
    saved, and no restart, no evaluation between and no change of the processes' number can shift them.
    """
    python, numpy, first, second = (int(word) for word in np.random.SeedSequence([seed, step, rank]).generate_state(4))
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(first << 31 ^ second)


def describe_data(source: Source | None, data: Data | None) -> dict[str, Any] | None:
    """What is remembered of data: its content, and the settings of the configuration that it was opened from.

    What is drawn anew for each sample, such as a mask, does not change the content; its settings name it.
    """
    if source is None:
        return None
    content = {"fingerprint": source.fingerprint, "samples": source.n_samples, "context_length": source.context_length}
    return content if data is None else {**content, _SETTINGS: data.settings()}


_SETTINGS = "settings"


def check_identity(saved: dict[str, Any], now: dict[str, Any], *, folder: Path) -> None:
    """Refuse to resume with other settings than before.

    Raises:
        ConfigError: names every value that differs, as it was and as it is.
    """
    for part in ("data", "held_out"):
        if saved.get(part) and now.get(part) and _SETTINGS not in saved[part]:  # written before they were remembered
            now = {**now, part: {name: value for name, value in now[part].items() if name != _SETTINGS}}
    changed = list(_differences(saved, now))
    if changed:
        more = f"; and {len(changed) - _MAX_DIFFERENCES} more" if len(changed) > _MAX_DIFFERENCES else ""
        raise ConfigError(
            f"the run in {folder} was started with other settings: {'; '.join(changed[:_MAX_DIFFERENCES])}{more}. "
            "Choose another output folder, or delete this one to start afresh"
        )


_MAX_DIFFERENCES = 8


def _differences(saved: Any, now: Any, name: str = "") -> Iterator[str]:
    """Each innermost value that differs; one that is absent counts as none."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in {**now, **saved}:
            yield from _differences(saved.get(key), now.get(key), f"{name}.{key}".removeprefix("."))
    elif isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        for i, (one, other) in enumerate(zip(saved, now, strict=True)):
            yield from _differences(one, other, f"{name}[{i}]")
    elif saved != now:
        yield f"{name} was {_format(saved)}, is {_format(now)}"


def _format(value: Any) -> str:
    if value is None:
        return "none"
    text = json.dumps(value, ensure_ascii=False)
    text = re.sub('"([0-9a-f]{12})[0-9a-f]{52}"', r"\1", text)  # of a digest the beginning is enough
    return text if len(text) <= 100 else f"{text[:100]}…"


def checkpoint_folder(out: Path, step: int, *, regular: bool) -> Path:
    """Where the checkpoint of a step is written; ``regular`` where every run writes one, stopped or not."""
    return out / "checkpoints" / f"{'step' if regular else 'stop'}-{step:08d}"


def newest_checkpoint(folder: Path, *, regular: bool = False) -> Path | None:
    """The newest checkpoint that verifies; damaged ones are set aside under ``.damaged`` with a warning.

    Args:
        folder: that of all checkpoints.
        regular: pass over those that only stopped runs write.
    """
    for path in reversed(_list_finished(folder)):
        if regular and path.name.startswith("stop-"):
            continue
        try:
            verify_folder(path, CheckpointError)
            return path
        except CheckpointError as error:
            aside = path.with_name(f"{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            logger.warning("%s; it was set aside as %s and the checkpoint before it is used", error, aside.name)
    return None


def forget_after(path: Path) -> None:
    """Delete the checkpoints that were written after one: a rollback to it makes them the past of another run."""
    for each in _list_finished(path.parent):
        if _place(each) > _place(path):
            remove_folder(each)


def prune(out: Path, *, keep_last: int, best_step: int | None, keep_every: int | None = None) -> None:
    """Delete checkpoints that are neither the newest, nor for good, weights that are not the best, and leftovers.

    Args:
        out: the run's folder.
        keep_last: how many regular checkpoints stay; 0 also drops the one of a stopped run.
        best_step: of which step weights stay.
        keep_every: which regular checkpoints stay for good.
    """
    found = _list_finished(out / "checkpoints")
    regular = [path for path in found if path.name.startswith("step-")]
    kept = {path for path in regular if keep_every and _step(path) % keep_every == 0}
    if keep_last:
        kept |= {*regular[-keep_last:], *found[-1:]}
    for path in found:
        if path not in kept:
            remove_folder(path)
    for path in out.glob("best-*"):
        if best_step is None or path.name != f"best-{best_step:08d}":
            remove_folder(path)
    for folder in (out, out / "checkpoints"):
        clear_leftovers(folder)


def _list_finished(folder: Path) -> list[Path]:
    """Checkpoints under their final names, oldest first; not what a killed write left beside them."""
    return sorted((path for path in folder.glob("st*-*") if _NAME.fullmatch(path.name)), key=_place)


_NAME = re.compile(r"(?:step|stop)-\d+")


def _step(path: Path) -> int:
    return int(path.name[len("step-") :])


def _place(path: Path) -> tuple[int, str]:
    """By which checkpoints are sorted: of one step, the regular one first."""
    return _step(path), path.name
