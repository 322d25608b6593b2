"""Ours: a real ``Run`` is executed; its steps are timed from outside, by the calls it makes for a progress bar."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measured import Measured, peak_rss_mb
from gptcore.allocator import restart_with_huge_pages
from gptcore.models import GPTConfig
from gptcore.run import Run
from gptcore.train import MemoryLogger, Progress, TrainConfig

NEVER = 10**9
"""For intervals between evaluations and checkpoints: what is measured is training."""


def train_config(*, n_steps: int, batch_size: int, packed: bool = False) -> TrainConfig:
    """The defaults of training, without evaluations and checkpoints on the way."""
    return TrainConfig(
        steps=n_steps,
        batch_size=batch_size,
        packed=packed,
        log_every=1,
        eval_every=NEVER,
        checkpoint_every=NEVER,
    )


def measured_run(run: Run, *, warmup: int, items: Sequence[float], log: MemoryLogger | None = None) -> Measured:
    """Execute the run; its steps after ``warmup`` work off ``items``.

    A step lasts from the end of the one before to its own end, with everything the trainer does in between.
    """
    restart_with_huge_pages()  # as `gptworks` does
    log, clock = log or MemoryLogger(), StepClock()
    with tempfile.TemporaryDirectory(prefix="gptworks-bench-run-") as folder:
        told = run.execute(Path(folder), log, on_progress=clock).metrics
    seconds = clock.seconds[warmup - 1 :]
    wanted = ("allocator", "n_parameters", "n_trainable")
    facts = {name: log.params[name] for name in wanted if name in log.params}
    shares = ("mfu", "gemm_gflops", "data_wait_share", "overhead_share")
    facts |= {name: round(told[f"perf/{name}"], 4) for name in shares}
    facts |= {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "optimizer": type(run.train.optimizer).__name__,
    }
    losses = [loss for _, loss in log.series("train/loss")]
    facts |= {"last loss": round(losses[-1], 3)} if losses else {}
    return Measured(seconds, list(items), clock.peak_rss_mb, facts)


class StepClock:
    """Notes when each step ended, and the peak memory until then."""

    def __init__(self) -> None:
        self._ends: list[float] = []
        self.peak_rss_mb = 0.0

    def __call__(self, progress: Progress) -> None:
        """Called by the trainer after each step; saving the finished model comes later and is not counted."""
        del progress
        self._ends.append(time.perf_counter())
        self.peak_rss_mb = peak_rss_mb()

    @property
    def seconds(self) -> list[float]:
        """Durations of all steps but the first, whose beginning is not told."""
        return [end - begin for begin, end in zip(self._ends, self._ends[1:], strict=False)]


def gpt(*, width: int, n_layers: int, n_heads: int, context_length: int) -> GPTConfig:
    """A GPT with GPT-2's vocabulary and without dropout."""
    return GPTConfig(context_length=context_length, width=width, n_layers=n_layers, n_heads=n_heads, dropout=0.0)
