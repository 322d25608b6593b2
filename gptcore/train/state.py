"""RunState: model, optimizer and position of a run, and their way to disk and back."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec, TrainingState
from gptcore.errors import CheckpointError
from gptcore.files import (
    MANIFEST,
    clear_leftovers,
    file_sha256,
    remove_folder,
    verify_folder,
    whole_folder,
    write_json,
)
from gptcore.models.network import Network
from gptcore.readers import Readers
from gptcore.train.config import TrainConfig
from gptcore.train.optim import optimizer_tensors, restore_optimizer
from gptcore.train.parallel import Parallel
from gptcore.train.records import flush, written
from gptcore.train.resume import (
    Position,
    check_identity,
    checkpoint_folder,
    forget_after,
    newest_checkpoint,
    prune,
)
from gptcore.train.saver import Saver, copied

logger = logging.getLogger(__name__)
FINISHED = "checkpoint"
"""Name of the finished model's folder."""
RESULT = "result.json"
"""Name of the file that says which run is finished, and its figures."""


@dataclass
class RunState:
    """What a checkpoint holds; every process of a run has one, rank 0 writes."""

    model: Network
    spec: ModelSpec
    readers: Readers
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    parallel: Parallel
    out: Path
    identity: dict[str, Any]
    """What must not change between two starts."""
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        """Start the writing thread."""
        self.saver = Saver()
        self._copied_at = -1

    @property
    def best_folder(self) -> Path:
        """Where the model with the lowest held-out loss so far is kept."""
        return self.out / f"best-{self.position.best_step:08d}"

    @property
    def _weights(self) -> dict[str, Tensor]:
        return checkpoint.unique_tensors(self.model)[0]

    def save_position(self) -> None:
        """Write a checkpoint to resume from, in the background where one process holds all of it."""
        position = self.position
        position.identity, position.written = self.identity, written(self.out)
        regular = position.step % self.config.checkpoint_every == 0 and not position.skipped_in_row
        path = checkpoint_folder(self.out, position.step, regular=regular)
        values = {"position": asdict(position)}
        moments = optimizer_tensors(self.optimizer, self.model)
        if self.parallel.sharded:
            self._save_shards(path, values, moments)
        elif self.parallel.rank == 0:
            weights = self._copied(self._weights)
            self._submit(path, weights, TrainingState(values, self._copied(moments)))

    def save_best(self) -> None:
        """Write the weights alone, as the best so far."""
        weights = self.parallel.whole(self._weights)
        if self.parallel.rank == 0:
            self._submit(self.best_folder, self._copied(weights), None)

    def save_final(self, metrics: dict[str, float]) -> Path:
        """Write the finished model and its figures, and delete what only a resumed run would need."""
        self.saver.wait()
        path = self.out / FINISHED
        weights = self.parallel.whole(self._weights)
        if self.parallel.rank == 0:
            self._write(path, weights, None)
            result = {"identity": self.identity, "checkpoint": file_sha256(path / MANIFEST), "metrics": metrics}
            write_json(self.out / RESULT, result)
            self._tidy()
        self.parallel.wait()
        return path

    def finished(self) -> dict[str, float] | None:
        """The figures of this run if ``out`` holds it finished and whole; every process must ask.

        Raises:
            ConfigError: ``out`` holds another run.
        """
        result = self.parallel.tell(self._result() if self.parallel.rank == 0 else None)
        if result is None:
            return None
        check_identity(result["identity"], self.identity, folder=self.out)
        if self.parallel.rank == 0:
            self._tidy()
        metrics: dict[str, float] = result["metrics"]
        return metrics

    def _result(self) -> dict[str, Any] | None:
        file = self.out / RESULT
        if not file.exists():
            return None
        try:
            result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if verify_folder(self.out / FINISHED, CheckpointError) == result["checkpoint"]:
                return result
            reason = f"it belongs to another {FINISHED}"
        except (CheckpointError, ValueError, KeyError) as error:
            reason = str(error)
        logger.warning("%s is not what the run left (%s); it is made again", self.out / FINISHED, reason)
        file.unlink()
        return None

    def _tidy(self) -> None:
        prune(self.out, keep_last=0, best_step=None, keep_every=self.config.keep_every)
        if self.config.keep_every is None:
            remove_folder(self.out / "checkpoints")

    def resume(self) -> bool:
        """Go back to the newest saved state, or start at step 0.

        Returns:
            Whether there was one.

        Raises:
            ConfigError: that state belongs to another run.
        """
        if self.parallel.rank == 0:
            for folder in (self.out, self.out / "checkpoints"):
                clear_leftovers(folder)
        path = self.newest()
        if path is None:
            self.position = Position(identity=self.identity)
            return False
        self.load(path)
        return True

    def newest(self, *, regular: bool = False) -> Path | None:
        """The newest checkpoint that verifies, as rank 0 sees it; ``regular`` as in ``newest_checkpoint``."""
        found = None
        if self.parallel.rank == 0:
            (self.out / "checkpoints").mkdir(parents=True, exist_ok=True)
            newest = newest_checkpoint(self.out / "checkpoints", regular=regular)
            found = None if newest is None else str(newest)
        told = self.parallel.tell(found)
        return None if told is None else Path(told)

    def return_to(self, path: Path) -> None:
        """Load a checkpoint and delete later ones, whose run this is no more."""
        if self.parallel.rank == 0:  # first: the records are cut next, and a later position counts on all of them
            forget_after(path)
        self.load(path)

    def load(self, path: Path) -> None:
        """Take weights, optimizer and position from a checkpoint of any number of processes.

        Raises:
            ConfigError: it belongs to another run.
        """
        state = checkpoint.load_training(path)
        check_identity(state.values["position"]["identity"], self.identity, folder=self.out)
        self.position = Position.from_saved(state.values["position"])
        # copied out of the mapped file, which would stay on the disk, deleted, for as long as the run lives
        moments = {name: tensor.clone() for name, tensor in state.tensors.items()}
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

    def _copied(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies to be written in the background; at a time, those of one step alone are held."""
        if self._copied_at != self.position.step:
            self.saver.wait()
            self._copied_at = self.position.step
        return copied(tensors)

    def _submit(self, path: Path, weights: dict[str, Tensor], training: TrainingState | None) -> None:
        best_step = self.position.best_step

        def write() -> None:
            if training is not None:
                flush(self.out)
            self._write(path, weights, training)
            if training is not None:  # not before a later position is safe: the one before may need its best
                config = self.config
                prune(self.out, keep_last=config.keep_last, best_step=best_step, keep_every=config.keep_every)

        self.saver.submit(write)

    def _write(self, path: Path, weights: dict[str, Tensor], training: TrainingState | None) -> None:
        with whole_folder(path) as folder:
            checkpoint.fill(folder, tensors=weights, spec=self.spec, readers=self.readers, training=training)

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
        flush(self.out)
        with whole_folder(path) as folder:
            self.parallel.tell(str(folder))
            save_shards(folder, model=self._weights, moments=large)
            scalars = copied({name: tensor for name, tensor in moments.items() if tensor.dim() == 0})
            training = TrainingState(values, scalars)
            checkpoint.fill(folder, tensors=None, spec=self.spec, readers=self.readers, training=training)
        config, best = self.config, self.position.best_step
        prune(self.out, keep_last=config.keep_last, best_step=best, keep_every=config.keep_every)
        self.parallel.wait()
