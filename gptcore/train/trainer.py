"""The training loop.

Everything a step depends on is a function of the seed, the step number and the state in the checkpoint, so a run that
was killed and started again by the same command ends with the same bits. The number of targets in the whole batch is
counted before the first backward pass, so that any split into micro-batches gives the same update.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.config import Config
from gptcore.data.base import Source
from gptcore.errors import CheckpointError, ConfigError, DataError, DivergedError, InterruptedRun
from gptcore.files import verify_folder
from gptcore.generate import Sampling, generate
from gptcore.models.base import Model
from gptcore.objectives.base import Objective
from gptcore.tokenizer import Tokenizer
from gptcore.train.held_out import HeldOut, evaluate
from gptcore.train.interrupt import stop_requests
from gptcore.train.logger import JsonlLogger, RunLogger
from gptcore.train.measure import Throughput, peak_rss_mb
from gptcore.train.optim import OptimizerConfig, optimizer_tensors, restore_optimizer
from gptcore.train.resume import (
    TORCH_RNG,
    Position,
    capture_random,
    check_identity,
    newest_checkpoint,
    pack,
    prune,
    restore_random,
)
from gptcore.train.schedule import Cosine, Schedule

logger = logging.getLogger(__name__)
MAX_SKIPPED_IN_ROW = 8


@dataclass(frozen=True)
class TrainConfig(Config):
    """How long and how to train."""

    epochs: float = 1.0
    """Passes over the data; ignored where ``steps`` is set."""
    steps: int | None = None
    """Optimizer steps; None takes ``epochs``, 0 only measures and saves."""
    batch_size: int = 16
    """Samples per optimizer step."""
    micro_batch_size: int | None = None
    """Samples per forward pass; None takes the whole batch. Changes memory and speed, not the result."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer settings."""
    schedule: Schedule = field(default_factory=Cosine)
    """Learning rate over time."""
    clip: float = 1.0
    """Largest norm of the gradient; above, it is scaled down."""
    keep: str = "best"
    """Which weights a finished run leaves: ``best`` by held-out loss, or ``last``."""
    eval_every: int = 50
    """Steps between held-out evaluations; the last step is always evaluated."""
    eval_samples: int | None = 256
    """Held-out samples of the evaluations on the way; None takes all. The final figure is always over all."""
    log_every: int = 10
    """Steps between logged lines."""
    checkpoint_every: int = 200
    """Steps between checkpoints to resume from."""
    keep_last: int = 2
    """How many of these are kept."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts that are continued greedily at each evaluation and kept in samples.jsonl."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be."""
        for name in ("batch_size", "eval_every", "log_every", "checkpoint_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.steps is not None and self.steps < 0:
            raise ConfigError(f"steps is {self.steps}; it must be at least 0, or none")
        for name in ("micro_batch_size", "eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1, or none")
        for name in ("epochs", "clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.keep not in ("best", "last"):
            raise ConfigError(f"keep is {self.keep!r}; it must be 'best' or 'last'")


class Progress(NamedTuple):
    """What a progress bar shows."""

    step: int
    n_steps: int
    metrics: dict[str, float]


class TrainResult(NamedTuple):
    """What a finished run leaves."""

    path: Path
    """The checkpoint folder."""
    metrics: dict[str, float]
    """Summary metrics: final held-out figures, speed, memory."""


@dataclass
class Trainer:
    """One run: built by ``Run.execute``, used once."""

    model: Model
    spec: ModelSpec
    tokenizer: Tokenizer
    objective: Objective
    source: Source
    held_out: Source | None
    config: TrainConfig
    seed: int
    out: Path
    log: RunLogger
    on_progress: Callable[[Progress], None] | None = None
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        """Build the optimizer and open the history."""
        self.optimizer = self.config.optimizer.build(self.model)
        self.history = JsonlLogger(self.out / "metrics.jsonl")
        self.speed = Throughput()
        self._in_update = False
        self._random = capture_random()

    @cached_property
    def n_steps(self) -> int:
        """Optimizer steps of the whole run."""
        if self.config.steps is not None:
            return self.config.steps
        return max(1, math.ceil(self.config.epochs * self.steps_per_epoch))

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps that see every sample once; the last one may be smaller."""
        return math.ceil(self.source.n_samples / self.config.batch_size)

    def fit(self) -> TrainResult:
        """Train to the end, or to a stop; ``resume`` comes first. A new process goes on with what is left undone.

        Raises:
            InterruptedRun: stopped by a signal, after saving.
            DivergedError: the updates stayed non-finite.
        """
        self.model.train()
        self.speed = Throughput()
        try:
            with stop_requests() as stop:
                while self.position.step < self.n_steps:
                    self._step_and_report()
                    if stop.signal_name and self.position.step < self.n_steps:
                        self._save_position()
                        raise InterruptedRun(
                            f"stopped by {stop.signal_name} after step {self.position.step} of {self.n_steps}; "
                            f"the state is saved in {self.out}: run the same command again to go on"
                        )
        except (InterruptedRun, DivergedError):
            raise
        except BaseException:
            if not self._in_update:
                self._save_position()
            raise
        return self._finish()

    # --- one step

    def train_step(self) -> tuple[float, float]:
        """One optimizer step.

        Returns:
            The mean loss per item before the update (nats), and the gradient's norm before clipping.
        """
        indices = self.batch_indices(self.position.step)
        micro = self.config.micro_batch_size or len(indices)
        batches = [self.source.batch(indices[i : i + micro]) for i in range(0, len(indices), micro)]
        count = sum(self.objective.count(batch) for batch in batches)
        if count == 0:
            raise DataError(f"the batch of step {self.position.step} has no target at all; check the data's ledger")
        self._random = capture_random()
        total, n_tokens = 0.0, 0
        while batches:
            batch = batches.pop(0)
            loss = self.objective(self.model, batch)
            (loss.total / count).backward()
            total += float(loss.total.detach())
            n_tokens += batch.n_tokens
        norm = float(torch.nn.utils.clip_grad_norm_(self._trained, self.config.clip))
        self._in_update = True
        self._update(finite=math.isfinite(total) and math.isfinite(norm))
        self.optimizer.zero_grad(set_to_none=True)
        if math.isfinite(total):
            self.position.window_total += total
            self.position.window_count += count
        self.position.n_tokens += n_tokens
        self.position.step += 1
        self._random = capture_random()
        self.speed.add(n_tokens)
        return total / count, norm

    @cached_property
    def _trained(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _update(self, *, finite: bool) -> None:
        if not finite:
            self.position.skipped += 1
            self.position.skipped_in_row += 1
            logger.warning("step %d: loss or gradient is not finite; the update is skipped", self.position.step)
            if self.position.skipped_in_row >= MAX_SKIPPED_IN_ROW:
                raise DivergedError(
                    f"{MAX_SKIPPED_IN_ROW} updates in a row were not finite (last at step {self.position.step}); "
                    f"lower train.optimizer.lr (now {self.config.optimizer.lr}) or train longer warm-up"
                )
            return
        self.position.skipped_in_row = 0
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.optimizer.step()

    @property
    def learning_rate(self) -> float:
        """The rate of the current step."""
        scale = self.config.schedule.multiplier(self.position.step, n_steps=self.n_steps)
        return self.config.optimizer.lr * scale

    def batch_indices(self, step: int) -> NDArray[np.int64]:
        """The samples of a step: a function of seed, step and batch size alone."""
        epoch, place = divmod(step, self.steps_per_epoch)
        size = self.config.batch_size
        return self._order(epoch)[place * size : (place + 1) * size]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if getattr(self, "_cached_epoch", None) != epoch:
            self._cached_order = self.source.order(epoch=epoch, seed=self.seed, batch_size=self.config.batch_size)
            self._cached_epoch = epoch
        return self._cached_order

    # --- around the steps

    def _step_and_report(self) -> None:
        rate = self.learning_rate
        _, norm = self.train_step()
        step, last = self.position.step, self.position.step == self.n_steps
        metrics: dict[str, float] = {}
        speed: dict[str, float] = {}
        if step % self.config.log_every == 0 or last:
            speed = {"perf/tokens_per_second": self.speed.read()}
            metrics |= {"train/lr": rate, "train/grad_norm": norm, "train/tokens": float(self.position.n_tokens)}
            if self.position.window_count:
                metrics["train/loss"] = self.position.window_total / self.position.window_count
            metrics["train/skipped_steps"] = float(self.position.skipped)
            self.position.window_total, self.position.window_count = 0.0, 0
        if self.held_out is not None and step % self.config.eval_every == 0 and not last:
            metrics |= self._evaluate()
        if metrics:
            self.history.append(metrics, step=step)
        self._in_update = False  # before this line a saved state would lack what the history says of its step
        if metrics:
            self.log.log_metrics(metrics | speed, step=step)  # speeds differ between runs: not part of the history
        if self.on_progress:
            self.on_progress(Progress(step, self.n_steps, metrics))
        if step % self.config.checkpoint_every == 0 and not last:
            self._save_position()

    def _evaluate(self) -> dict[str, float]:
        assert self.held_out is not None
        config = self.config
        result: HeldOut = evaluate(
            self.model, self.held_out, self.objective, batch_size=config.batch_size, max_samples=config.eval_samples
        )
        if self.position.best_loss is None or result.loss < self.position.best_loss:
            self.position.best_loss, self.position.best_step = result.loss, self.position.step
            if config.keep == "best":
                self._save_model(self._best_folder)
        self._sample()
        self.speed.read()  # a new interval: evaluating is not training time
        return {f"val/{name}": value for name, value in result.metrics.items()}

    @property
    def _best_folder(self) -> Path:
        return self.out / f"best-{self.position.best_step:08d}"

    def _sample(self) -> None:
        for prompt in self.config.sample_prompts:
            sampling = Sampling(max_new_tokens=40)
            prompt_ids = self.tokenizer.encode(prompt) or [self.tokenizer.end_of_text]
            answer = generate(self.model, [prompt_ids], sampling, end_token=self.tokenizer.end_of_text)
            line = {"step": self.position.step, "prompt": prompt, "text": self.tokenizer.decode(answer[0])}
            with (self.out / "samples.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    # --- state

    @cached_property
    def _identity(self) -> dict[str, str]:
        runtime = {"micro_batch_size": None, "log_every": 1, "checkpoint_every": 1, "keep_last": 1}
        fixed = replace(self.config, **runtime)  # type: ignore[arg-type]
        return {
            "data": self.source.fingerprint,
            "tokenizer": self.tokenizer.digest,
            "model": self.spec.digest(),
            "training": fixed.digest(),
            "objective": self.objective.digest(),
            "seed": str(self.seed),
        }

    def _save_model(self, path: Path, training: checkpoint.TrainingState | None = None) -> None:
        checkpoint.save(path, model=self.model, spec=self.spec, tokenizer=self.tokenizer, training=training)

    def _save_position(self) -> None:
        self.position.identity = self._identity
        state = pack(self.position, self._random, optimizer_tensors(self.optimizer, self.model))
        self._save_model(self.out / "checkpoints" / f"step-{self.position.step:08d}", state)
        prune(self.out, keep_last=self.config.keep_last, best_step=self.position.best_step)

    def resume(self) -> None:
        """Go back to the newest saved state in ``out``, or start at step 0.

        Raises:
            ConfigError: that state belongs to another run.
        """
        (self.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        path = newest_checkpoint(self.out / "checkpoints")
        if path is None:
            self.position = Position(identity=self._identity)
        else:
            state = checkpoint.load_training(path)
            saved = Position(**state.values["position"])
            check_identity(saved.identity, self._identity, folder=self.out)
            checkpoint.load_weights(self.model, path)
            moments = {name: t for name, t in state.tensors.items() if name != TORCH_RNG}
            restore_optimizer(self.optimizer, self.model, moments)
            restore_random(state.values["random"], state.tensors)
            self.position = saved
            logger.info("resuming %s at step %d of %d", self.out, saved.step, self.n_steps)
        self.history.truncate(self.position.step)
        truncate_samples = JsonlLogger(self.out / "samples.jsonl")
        truncate_samples.truncate(self.position.step)

    def _finish(self) -> TrainResult:
        metrics: dict[str, Any] = {}
        if self.held_out is not None:
            self._evaluate()
            if self.config.keep == "best" and self.position.best_step != self.position.step:
                verify_folder(self._best_folder, CheckpointError)
                checkpoint.load_weights(self.model, self._best_folder)
            final = evaluate(self.model, self.held_out, self.objective, batch_size=self.config.batch_size)
            metrics |= {f"val/{name}": value for name, value in final.metrics.items()}
            self.history.append(metrics, step=self.position.step)
            self.log.log_metrics(metrics, step=self.position.step)
        self._save_model(self.out / "checkpoint")
        shutil.rmtree(self.out / "checkpoints")
        prune(self.out, keep_last=1, best_step=None)
        perf = {
            "perf/seconds": self.speed.seconds,
            "perf/tokens_per_second": self.speed.n_tokens / max(1e-9, self.speed.seconds),
            "perf/peak_rss_mb": peak_rss_mb(),
        }
        self.log.log_metrics(perf)
        return TrainResult(self.out / "checkpoint", metrics | perf)
