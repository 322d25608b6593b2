"""RunState: model, optimizer and position of a run, and their way to disk and back."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec, TrainingState
from gptcore.errors import CheckpointError
from gptcore.files import verify_folder, whole_folder
from gptcore.models.base import Model
from gptcore.tokenizer import Tokenizer
from gptcore.train.config import TrainConfig
from gptcore.train.optim import optimizer_tensors, restore_optimizer
from gptcore.train.parallel import Parallel
from gptcore.train.resume import Position, check_identity, newest_checkpoint, prune
from gptcore.train.saver import Saver, copied

logger = logging.getLogger(__name__)


@dataclass
class RunState:
    """What a checkpoint holds; every process of a run has one, rank 0 writes."""

    model: Model
    spec: ModelSpec
    tokenizer: Tokenizer
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    parallel: Parallel
    out: Path
    identity: dict[str, str]
    """Digests of what must not change between two starts."""
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        """Start the writing thread."""
        self.saver = Saver()

    @property
    def best_folder(self) -> Path:
        """Where the model with the lowest held-out loss so far is kept."""
        return self.out / f"best-{self.position.best_step:08d}"

    @property
    def _weights(self) -> dict[str, Tensor]:
        return checkpoint.unique_tensors(self.model)[0]

    def save_position(self) -> None:
        """Write a checkpoint to resume from, in the background where one process holds all of it."""
        self.position.identity = self.identity
        path = self.out / "checkpoints" / f"step-{self.position.step:08d}"
        values = {"position": asdict(self.position)}
        moments = optimizer_tensors(self.optimizer, self.model)
        if self.parallel.sharded:
            self._save_shards(path, values, moments)
        elif self.parallel.rank == 0:
            self._submit(path, copied(self._weights), TrainingState(values, copied(moments)))

    def save_best(self) -> None:
        """Write the weights alone, as the best so far."""
        weights = self.parallel.whole(self._weights)
        if self.parallel.rank == 0:
            self._submit(self.best_folder, copied(weights), None)

    def save_final(self) -> Path:
        """Write the finished model and delete what only a resumed run would need."""
        self.saver.wait()
        path = self.out / "checkpoint"
        weights = self.parallel.whole(self._weights)
        if self.parallel.rank == 0:
            self._write(path, weights, None)
            prune(self.out, keep_last=0, best_step=None, keep_every=self.config.keep_every)
            if self.config.keep_every is None:
                shutil.rmtree(self.out / "checkpoints")
        self.parallel.wait()
        return path

    def resume(self) -> bool:
        """Go back to the newest saved state, or start at step 0.

        Returns:
            Whether there was one.

        Raises:
            ConfigError: that state belongs to another run.
        """
        path = self.newest()
        if path is None:
            self.position = Position(identity=self.identity)
            return False
        self.load(path)
        check_identity(self.position.identity, self.identity, folder=self.out)
        return True

    def newest(self) -> Path | None:
        """The newest checkpoint that verifies, as rank 0 sees it."""
        found = None
        if self.parallel.rank == 0:
            (self.out / "checkpoints").mkdir(parents=True, exist_ok=True)
            newest = newest_checkpoint(self.out / "checkpoints")
            found = None if newest is None else str(newest)
        told = self.parallel.tell(found)
        return None if told is None else Path(told)

    def load(self, path: Path) -> None:
        """Take weights, optimizer and position from a checkpoint of any number of processes."""
        state = checkpoint.load_training(path)
        self.position = Position(**state.values["position"])
        moments = dict(state.tensors)
        parameters = dict(self.model.named_parameters())
        if "sharded_moments" in state.values:
            spread = {
                name: torch.zeros_like(parameters[name.rpartition("/")[0]]) for name in state.values["sharded_moments"]
            }
            from gptcore.train.sharded import load_shards

            load_shards(path, model=self._weights, moments=spread)
            moments |= spread
        else:
            self._load_weights(path)
            moments = {
                name: self.parallel.like(parameters[name.rpartition("/")[0]], tensor)
                for name, tensor in moments.items()
            }
        restore_optimizer(self.optimizer, self.model, moments)

    def load_best(self) -> None:
        """Take the weights of the best step."""
        self.saver.wait()
        self.parallel.wait()
        verify_folder(self.best_folder, CheckpointError)
        self._load_weights(self.best_folder)

    def close(self) -> None:
        """End the writing thread."""
        self.saver.close()

    def _load_weights(self, path: Path) -> None:
        @torch.no_grad()
        def put(target: Tensor, value: Tensor) -> None:
            target.copy_(self.parallel.like(target, value))

        checkpoint.load_weights(self.model, path, put=put)

    def _submit(self, path: Path, weights: dict[str, Tensor], training: TrainingState | None) -> None:
        best_step = self.position.best_step

        def write() -> None:
            self._write(path, weights, training)
            if training is not None:  # not before a later position is safe: the one before may need its best
                config = self.config
                prune(self.out, keep_last=config.keep_last, best_step=best_step, keep_every=config.keep_every)

        self.saver.submit(write)

    def _write(self, path: Path, weights: dict[str, Tensor], training: TrainingState | None) -> None:
        with whole_folder(path) as folder:
            checkpoint.fill(folder, tensors=weights, spec=self.spec, tokenizer=self.tokenizer, training=training)

    def _save_shards(self, path: Path, values: dict[str, Any], moments: dict[str, Tensor]) -> None:
        """Every process writes its part into one folder; rank 0 adds the rest, the manifest, and the name."""
        from gptcore.train.sharded import save_shards

        self.saver.wait()
        large = {name: tensor for name, tensor in moments.items() if tensor.dim() > 0}
        values["sharded_moments"] = sorted(large)
        if self.parallel.rank != 0:
            folder = Path(self.parallel.tell(None))
            save_shards(folder, model=self._weights, moments=large)
            self.parallel.wait()
            return
        with whole_folder(path) as folder:
            self.parallel.tell(str(folder))
            save_shards(folder, model=self._weights, moments=large)
            scalars = copied({name: tensor for name, tensor in moments.items() if tensor.dim() == 0})
            training = TrainingState(values, scalars)
            checkpoint.fill(folder, tensors=None, spec=self.spec, tokenizer=self.tokenizer, training=training)
        config, best = self.config, self.position.best_step
        prune(self.out, keep_last=config.keep_last, best_step=best, keep_every=config.keep_every)
        self.parallel.wait()
