"""What a checkpoint costs a training: how long it stands still, and how much slower the steps beside the write are.

python -m benchmarks.checkpoint       # GPT-2 124M, 2 rows of 512 tokens: 1.5 GB of weights and moments
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measured import Measured, peak_rss_mb
from benchmarks.options import Options, shared_parser
from benchmarks.pretrain import sizes_of
from benchmarks.sitting import main
from benchmarks.work import Implementation, Target, Work

if TYPE_CHECKING:
    from gptcore.train import Trainer

_EVERY = 4
"""Steps from one checkpoint to the next: the first ones go on beside the write, the last one is undisturbed."""


def build(options: Options) -> Work:
    """The work for these options."""
    del options
    return Work(
        name="checkpoint-124m",
        title="Checkpoints: GPT-2 124M with AdamW's moments, 2 rows × 512 tokens a step",
        unit="steps lost per checkpoint",
        figure=lambda measured: statistics.median(measured.seconds) / measured.facts["seconds of a step"],
        implementations=(
            Implementation("ours", "`RunState.save_position`: copied, then written in a thread", measure_ours),
            Implementation("torch.save", "model and optimizer in one file, flushed, while training waits", _torch_save),
        ),
        prepare=_prepare,
        targets=(Target("figure", 1.0, at_most=True),),
        notes=(
            "lost: the time of the save and of the steps until the next one, less that of as many undisturbed steps",
            "both flush to the disk; ours also takes the sha256 of each file",
        ),
    )


def measure_ours(options: Options, folder: Path) -> Measured:
    """A real trainer, which saves as it does in a run."""

    def save(trainer: Trainer) -> None:
        trainer.state.save_position()

    return _measured(options, folder, save, wait=lambda trainer: trainer.state.saver.wait())


def _torch_save(options: Options, folder: Path) -> Measured:
    import torch

    def save(trainer: Trainer) -> None:
        with (trainer.out / "state.pt").open("wb") as file:
            torch.save({"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())

    return _measured(options, folder, save, wait=lambda _: None)


def _measured(
    options: Options, folder: Path, save: Callable[[Trainer], None], *, wait: Callable[[Trainer], None]
) -> Measured:
    with tempfile.TemporaryDirectory(prefix="gptworks-bench-run-") as out:
        trainer = _trainer(options, folder, Path(out))
        trainer.resume()
        trainer.model.train()
        for _ in range(options.warmup):
            trainer.train_step()
        lost, stalls, undisturbed = [], [], []
        for _ in range(options.steps):
            started = time.perf_counter()
            save(trainer)
            stalls.append(time.perf_counter() - started)
            steps = [_timed(trainer) for _ in range(_EVERY)]
            undisturbed.append(steps[-1])
            lost.append(stalls[-1] + sum(steps))
        wait(trainer)
        trainer.feed.close()
        trainer.state.close()
    step = statistics.median(undisturbed)
    facts = {"seconds of a step": round(step, 3), "seconds of standing still": round(statistics.median(stalls), 3)}
    return Measured([total - _EVERY * step for total in lost], [1.0] * len(lost), peak_rss_mb(), facts)


def _timed(trainer: Trainer) -> float:
    started = time.perf_counter()
    trainer.train_step()
    return time.perf_counter() - started


def _trainer(options: Options, folder: Path, out: Path) -> Trainer:
    from gptcore.train.allocator import keep_freed_memory

    from benchmarks.ours import gpt, train_config
    from benchmarks.prepare import TOKENIZER, TRAIN
    from gptcore.data.windows import TokenWindows
    from gptcore.objectives import NextToken
    from gptcore.run import Run
    from gptcore.train import MemoryLogger

    keep_freed_memory()
    sizes = sizes_of(options)
    run = Run(
        data=TokenWindows(folder / TRAIN, context_length=sizes.length),
        objective=NextToken(),
        tokenizer=folder / TOKENIZER,
        model=gpt(width=sizes.width, n_layers=sizes.n_layers, n_heads=sizes.n_heads, context_length=sizes.length),
        train=train_config(n_steps=options.warmup + _EVERY * options.steps + 1, batch_size=sizes.batch_size),
        seed=options.seed,
    )
    return run.trainer(out, MemoryLogger())


def _prepare(options: Options, folder: Path) -> None:
    from benchmarks.prepare import prepare_windows

    prepare_windows(options, folder)


if __name__ == "__main__":
    parser = shared_parser(str(__doc__), steps=3)
    parser.set_defaults(size="124m")
    main("benchmarks.checkpoint", build, parser)
