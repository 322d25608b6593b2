"""The training loop.

Everything a step depends on is a function of the seed, the step number and the state in the checkpoint, so a run that
was killed and started again by the same command ends with the same bits. The number of targets in the whole batch is
counted before the first backward pass, so that any split into micro-batches and processes gives the same update.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gptcore.checkpoint import ModelSpec
from gptcore.data.base import Data, Source
from gptcore.errors import DataError, DivergedError, InterruptedRun, OutOfDiskError
from gptcore.models.network import Network
from gptcore.objectives.base import Objective
from gptcore.readers import Readers
from gptcore.train.config import RUNTIME, TrainConfig
from gptcore.train.feed import Feed, Share
from gptcore.train.held_out import HeldOut, evaluate
from gptcore.train.interrupt import StopRequest, stop_requests, undisturbed
from gptcore.train.logger import RunLogger
from gptcore.train.measure import StepClock
from gptcore.train.optim import set_rate
from gptcore.train.parallel import Parallel
from gptcore.train.records import Records
from gptcore.train.result import Progress, TrainResult
from gptcore.train.resume import Position, seed_step, told_of
from gptcore.train.state import RunState
from gptcore.train.update_size import copied_sample, update_ratio
from gptcore.train.utilization import ceiling
from gptcore.train.weighing import Weighing

logger = logging.getLogger(__name__)


@dataclass
class Trainer:
    """One process of one run: built by ``Run.execute``, used once."""

    model: Network
    spec: ModelSpec
    readers: Readers
    objective: Objective
    source: Source
    held_out: Source | None
    config: TrainConfig
    seed: int
    out: Path
    log: RunLogger
    on_progress: Callable[[Progress], None] | None = None
    parallel: Parallel = field(default_factory=Parallel)
    init: str | None = None
    """Digest of the checkpoint that the weights are from."""
    data: Data | None = None
    """What ``source`` was opened from."""
    held_out_data: Data | None = None
    """What ``held_out`` was opened from."""

    def __post_init__(self) -> None:
        """Place the model, build the optimizer, begin to make batches."""
        config, parallel = self.config, self.parallel
        self.model = parallel.place(self.model, precision=config.precision)
        if config.checkpoint_activations:
            self.model.checkpoint_activations()
        self.optimizer = config.optimizer.build(self.model)
        self._loss_of = parallel.loss_of(self.model, self.objective, precision=config.precision)
        self._scaler = torch.amp.GradScaler(parallel.device.type, enabled=config.precision == "fp16")
        self.weighing = Weighing(self.objective)
        self.feed = Feed(
            self.source,
            self.objective,
            batch_size=config.batch_size,
            seed=self.seed,
            micro_batch_size=config.micro_batch_size,
            packed=config.packed,
            rank=parallel.rank,
            world_size=parallel.world_size,
        )
        self.state = RunState(
            self.model, self.spec, self.readers, self.optimizer, config, parallel, self.out, self._identity
        )
        self.records = Records(self.out, self.log, main=parallel.rank == 0)
        self.clock = StepClock(self.model.operations())
        self.stop = StopRequest()
        self._all_asked = self._in_update = False
        self._fault = ""
        self._update_ratio = 0.0

    @property
    def position(self) -> Position:
        """Where the run stands."""
        return self.state.position

    @cached_property
    def n_steps(self) -> int:
        """Optimizer steps of the whole run."""
        if self.config.steps is not None:
            return self.config.steps
        return max(1, math.ceil(self.config.epochs * self.feed.steps_per_epoch))

    def resume(self) -> None:
        """Go back to the newest saved state in ``out``, or start at step 0.

        Raises:
            ConfigError: that state belongs to another run.
        """
        if self.state.resume():
            if self.position.scaler:
                self._scaler.load_state_dict(self.position.scaler)
            logger.info("resuming %s at step %d of %d", self.out, self.position.step, self.n_steps)
        self.records.restore(self.position.written)

    def fit(self) -> TrainResult:
        """Train to the end, or to a stop; ``resume`` comes first. A new process goes on with what is left undone.

        Raises:
            InterruptedRun: stopped by a signal, after saving.
            DivergedError: the loss left its course again and again.
            OutOfDiskError: a checkpoint could not be written.
        """
        self.model.train()
        self.clock.start(ceiling=ceiling(self.parallel, precision=self.config.precision))
        try:
            with stop_requests(patient=self.parallel.world_size > 1) as self.stop:
                while self.position.step < self.n_steps:
                    self._step_and_report()
                    if self._asked_to_stop and self.position.step < self.n_steps:
                        self._interrupt()
            return self._finish()
        except (InterruptedRun, DivergedError, OutOfDiskError):
            raise
        except BaseException:
            if self.parallel.world_size == 1 and not self._in_update and self.position.step < self.n_steps:
                self._rescue()
            raise
        finally:
            self.feed.close()
            self.state.close()

    def _rescue(self) -> None:
        try:
            self.state.save_position()
            self.state.saver.wait()
        except Exception:  # must not hide what has ended the run
            logger.warning("the state after step %d could not be saved", self.position.step, exc_info=True)

    @property
    def _asked_to_stop(self) -> bool:
        """Many processes stop by what they last told each other, so that all stop after the same step."""
        return self._all_asked if self.parallel.world_size > 1 else self.stop.signal_name is not None

    def _interrupt(self) -> None:
        self.state.save_position()
        self.state.saver.wait()
        self.parallel.wait()
        raise InterruptedRun(
            f"stopped by {self.stop.signal_name or 'a signal'} after step {self.position.step} of {self.n_steps}; "
            f"the state is saved in {self.out}: run the same command again to go on"
        )

    # --- one step

    def train_step(self) -> tuple[float, float]:
        """One optimizer step.

        Returns:
            The loss before the update (the parts' means per item, weighted; nats), and the gradient's norm before
            clipping.
        """
        self.state.saver.check()
        position, parallel = self.position, self.parallel
        data_step = position.step + position.data_offset
        with self.clock.waiting():
            share = self.feed.take(data_step)
        counts = [int(count) for count in parallel.sum(share.counts)]
        if not any(counts):
            raise DataError(f"the batch of step {position.step} has no target at all; check the data's ledger")
        seed_step(self.seed, data_step, parallel.rank)
        with self.clock.computing():
            own = self._backward(share, counts)
        with self.clock.computing():
            self._scaler.unscale_(self.optimizer)
            norm = parallel.clip(self._trained, self.config.clip)
        asked = float(self.stop.signal_name is not None)
        *sums, n_tokens, stopped = parallel.sum([*own, share.n_tokens, asked])
        loss = self.weighing.mean(sums, counts)
        with undisturbed():
            self._in_update = True
            self._update(loss, norm)
            self.optimizer.zero_grad(set_to_none=True)
            if math.isfinite(loss):
                position.add_losses(sums, counts)
            position.n_tokens += int(n_tokens)
            position.step += 1
            self._in_update = self._is_unfinished(position.step)
        self._all_asked = stopped > 0
        self.clock.add(n_tokens=int(n_tokens), n_items=sum(counts), n_rows=self.feed.n_rows)
        return loss, norm

    @cached_property
    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _backward(self, share: Share, counts: list[int]) -> list[float]:
        """The gradients of this process's micro-batches; the sum of its losses, for each part."""
        parallel, weighing, sums = self.parallel, self.weighing, [0.0] * len(counts)
        scales = weighing.scales(counts, world_size=parallel.world_size)
        micros = share.micros
        while micros:
            micro = micros.pop(0)
            batch = micro.batch if parallel.device.type == "cpu" else micro.batch.to(parallel.device)
            with parallel.synced(self._loss_of, last=not micros):
                loss = self._loss_of(batch)
                self._scaler.scale(weighing.scaled(loss, scales if micro.real else [0.0] * len(scales))).backward()
            if micro.real:
                sums = [total + own for total, own in zip(sums, weighing.sums(loss), strict=True)]
        return sums

    def _update(self, loss: float, norm: float) -> None:
        position, policy = self.position, self.config.spikes
        fault = policy.fault(loss, norm, recent=position.recent_losses)
        if fault is None:
            set_rate(self.optimizer, self.learning_rate)
            before = copied_sample(self._trained) if self._reports_next else None
            with self.clock.computing():
                self.optimizer.step()
            if before is not None:
                self._update_ratio = update_ratio(self._trained, before, self.parallel)
            policy.remember(position.recent_losses, loss)
            position.skipped_in_row = 0
        else:
            position.skipped += 1
            position.skipped_in_row += 1
            self._fault = fault
            logger.warning("step %d: %s; the update is skipped", position.step, fault)
        if self._scaler.is_enabled():
            self._scaler.update()
            position.scaler = self._scaler.state_dict()

    @property
    def _reports_next(self) -> bool:
        step = self.position.step + 1
        return step % self.config.log_every == 0 or step == self.n_steps

    def _is_unfinished(self, step: int) -> bool:
        """Whether a step whose update is done needs a line in the history, or a rollback, before it may be saved."""
        told = step % self.config.log_every == 0 or step == self.n_steps or self._is_evaluated(step)
        return told or self.position.skipped_in_row >= self.config.spikes.patience

    def _is_evaluated(self, step: int) -> bool:
        return self.held_out is not None and step % self.config.eval_every == 0 and step != self.n_steps

    @property
    def learning_rate(self) -> float:
        """The rate of the current step."""
        scale = self.config.schedule.multiplier(self.position.step, n_steps=self.n_steps)
        return self.config.optimizer.lr * scale

    # --- around the steps

    def _step_and_report(self) -> None:
        rate = self.learning_rate
        _, norm = self.train_step()
        position, config = self.position, self.config
        if position.skipped_in_row >= config.spikes.patience:
            self._roll_back()
            return
        step, last = position.step, position.step == self.n_steps
        metrics: dict[str, float] = {}
        speed: dict[str, float] = {}
        if step % config.log_every == 0 or last:  # as `_reports_next` foretold
            speed = self.clock.read()
            metrics |= {"train/lr": rate, "train/grad_norm": norm, "train/tokens": float(position.n_tokens)}
            if any(position.window_counts):
                metrics |= self.weighing.metrics(position.window_sums, position.window_counts, place="train/")
            metrics["train/skipped_steps"] = float(position.skipped)
            if not position.skipped_in_row:
                metrics["train/update_ratio"] = self._update_ratio
            position.window_sums, position.window_counts = [], []
        if self._is_evaluated(step):
            with self.clock.paused():
                metrics |= self._evaluate()
        self.records.add(metrics, step=step)
        self._in_update = False  # before this line a saved state would lack what the history says of its step
        if metrics:
            self.records.tell(metrics | speed, step=step)
        if self.on_progress:
            self.on_progress(Progress(step, self.n_steps, metrics))
        # a checkpoint in the middle of a spike would be none to return to
        if step % config.checkpoint_every == 0 and not last and not position.skipped_in_row:
            self.state.save_position()

    def _roll_back(self) -> None:
        """Return to the last checkpoint and take other data from there on.

        Raises:
            DivergedError: there is none, or it was done too often.
        """
        lost, policy = self.position, self.config.spikes
        self.state.saver.wait()
        self.parallel.wait()
        report = f"{policy.patience} updates in a row were skipped, the last at step {lost.step - 1}: {self._fault}"
        path = self.state.newest(regular=True)
        if path is None or len(lost.rollbacks) >= policy.max_rollbacks:
            before = "; ".join(f"from {r['at']} to {r['to']}" for r in lost.rollbacks) or "none"
            raise DivergedError(
                f"{report}. Rollbacks before: {before}"
                + ("" if path else ", and there is no checkpoint to return to")
                + f". Lower train.optimizer.lr (now {self.config.optimizer.lr}), train longer warm-up, or look at "
                f"the data of batch {lost.step + lost.data_offset - policy.patience} and after"
            )
        self.state.return_to(path)
        position = self.position
        position.data_offset = lost.step + lost.data_offset - position.step
        position.rollbacks = [*lost.rollbacks, {"at": lost.step, "to": position.step, "reason": self._fault}]
        position.skipped, position.skipped_in_row, position.scaler = lost.skipped, 0, lost.scaler
        logger.warning("%s; back to step %d, the data between is passed over", report, position.step)
        self.records.restore(position.written)
        event = {"train/rollbacks": float(len(position.rollbacks)), "train/skipped_steps": float(position.skipped)}
        self.records.add(event, step=position.step)
        self.records.tell(event, step=position.step)
        self._in_update = False
        self.state.save_position()

    def _evaluate(self) -> dict[str, float]:
        assert self.held_out is not None
        config, position = self.config, self.position
        result = self._measured(config.eval_samples)
        if position.best_loss is None or result.loss < position.best_loss:
            position.best_loss, position.best_step = result.loss, position.step
            if config.keep == "best":
                self.state.save_best()
        if config.sample_prompts and (self.parallel.sharded or self.parallel.rank == 0):
            self.records.sample(self.model, self.readers.words(), config.sample_prompts, step=position.step)
        return {f"val/{name}": value for name, value in result.metrics.items()}

    def _measured(self, max_samples: int | None) -> HeldOut:
        assert self.held_out is not None
        config = self.config
        with self.parallel.autocast(config.precision)():
            return evaluate(
                self.model,
                self.held_out,
                self.objective,
                batch_size=config.batch_size,
                max_samples=max_samples,
                parallel=self.parallel,
            )

    @cached_property
    def _identity(self) -> dict[str, Any]:
        spec, train = self.spec.to_dict(), self.config.to_dict()
        return {
            "data": told_of(self.source, self.data),
            "held_out": told_of(self.held_out, self.held_out_data),
            **{name: {"name": each.name, "digest": each.digest} for name, each in self.readers.present()},
            "init": self.init,
            **{name: spec[name] for name in ("model", "transforms", "template")},
            "reader": spec.get("reader"),
            "train": {name: value for name, value in train.items() if name not in RUNTIME},
            "objective": self.objective.to_dict(),
            "seed": self.seed,
        }

    def _finish(self) -> TrainResult:
        metrics: dict[str, Any] = {}
        if self.held_out is not None:
            self._evaluate()
            if self.config.keep == "best" and self.position.best_step != self.position.step:
                self.state.load_best()
            metrics |= {f"val/{name}": value for name, value in self._measured(None).metrics.items()}
            self.records.add(metrics, step=self.position.step)
            self.records.tell(metrics, step=self.position.step)
        perf = self.clock.summary()
        path = self.state.save_final(metrics | perf)
        self.records.tell(perf)
        return TrainResult(path, metrics | perf)
