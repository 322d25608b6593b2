"""Run: one training run, whole, as a value.

It survives JSON, so the same value is written into the output folder, logged by a tracker and read by another process.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptcore import checkpoint
from gptcore.allocator import keep_freed_memory
from gptcore.checkpoint import ModelSpec
from gptcore.config import Config, later
from gptcore.data.base import Data, Source
from gptcore.errors import ConfigError, TokenizerMismatch
from gptcore.files import write_json
from gptcore.locking import hold
from gptcore.models.network import Network, NetworkConfig
from gptcore.nn.surgery import count_parameters
from gptcore.objectives.base import Objective
from gptcore.readers import ImageReader, Reader, Readers
from gptcore.tokenizer import Tokenizer
from gptcore.train.config import TrainConfig
from gptcore.train.joining import join_group
from gptcore.train.logger import RunLogger
from gptcore.train.measure import EnergyMeter, log_energy
from gptcore.train.parallel import Kind, Parallel
from gptcore.train.result import Progress, TrainResult
from gptcore.train.state import FINISHED
from gptcore.train.trainer import Trainer
from gptcore.transforms.base import Transform


@dataclass(frozen=True)
class Run(Config):
    """One training run."""

    data: Data
    """What is trained on."""
    objective: Objective
    """What for."""
    tokenizer: Path | None = None
    """Folder of the tokenizer that made the data; None where nothing is text."""
    held_out: Data | None = None
    """What the held-out loss is measured on."""
    model: NetworkConfig | None = None
    """Sizes of a model from random weights; set this or ``init``."""
    init: Path | None = None
    """Checkpoint to start from; set this or ``model``."""
    transforms: tuple[Transform, ...] = ()
    """Changes of the structure before training, such as a new head or LoRA."""
    template: str | None = None
    """Prompt template, saved with the checkpoint."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long and how."""
    seed: int = 1
    """Seed of weights, order and dropout."""
    images: Path | None = later(None)
    """Folder of the image reader that made the data; None where nothing is an image."""

    def __post_init__(self) -> None:
        """Refuse a run that has no model, or two, or nothing to read by."""
        if self.tokenizer is None and self.images is None:
            raise ConfigError(
                "expected tokenizer or images, got neither; set the folder of the reader that the data was made with"
            )
        if (self.model is None) == (self.init is None):
            raise ConfigError(
                "expected exactly one of model (random weights) and init (a checkpoint); set one, leave out the other"
            )

    def execute(
        self,
        out: Path,
        log: RunLogger,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        parallel: Kind = "ddp",
        meter: EnergyMeter | None = None,
    ) -> TrainResult:
        """Train, or resume where the same run stopped; leaves ``out/checkpoint``. A finished run is not trained again.

        Under torchrun every process calls this with the same ``out`` on a folder that all see; rank 0 writes and logs.

        Args:
            out: the run's folder.
            log: where its numbers go.
            on_progress: called after each step.
            parallel: how several processes train together: ``ddp`` or ``fsdp``.
            meter: counts the energy of rank 0's machine while it trains; without it none is logged.

        Raises:
            LockedError: another process is training in ``out``.
            ConfigError, TokenizerMismatch: data, model and tokenizer do not belong together.
            InterruptedRun: stopped from outside, after saving.
        """
        out.mkdir(parents=True, exist_ok=True)
        allocator = keep_freed_memory()
        with join_group(parallel) as members, self._alone(out, members):
            trainer = self.trainer(out, log, parallel=members)
            trainer.on_progress = on_progress if members.rank == 0 else None
            if (metrics := trainer.state.read_figures()) is not None:
                trainer.records.track(metrics)
                return TrainResult(out / FINISHED, metrics)
            trainer.resume()
            if members.rank == 0:
                log.log_params(self._facts(trainer) | {"allocator": allocator})
                write_json(out / "run.json", self.to_dict())  # only now: a refused run leaves the first one's settings
            with log_energy(meter if members.rank == 0 else None, log):
                return trainer.fit()

    @staticmethod
    def _alone(out: Path, members: Parallel) -> AbstractContextManager[Any]:
        if members.rank != 0:
            return nullcontext()
        return hold(out / "run.lock", wait=False, purpose=f"the run in {out}")

    @staticmethod
    def _facts(trainer: Trainer) -> dict[str, Any]:
        counts = count_parameters(trainer.model)
        return {
            "n_parameters": counts.total,
            "n_trainable": counts.trainable,
            "trained_share": round(counts.trainable / counts.total, 6),
            "n_steps": trainer.n_steps,
            "n_samples": trainer.source.n_samples,
            "n_processes": trainer.parallel.world_size,
            "parallel": type(trainer.parallel).__name__.lower(),
            "device": str(trainer.parallel.device),
        }

    def trainer(self, out: Path, log: RunLogger, *, parallel: Parallel | None = None) -> Trainer:
        """The trainer of this run, at step 0; ``execute`` also takes the folder's lock and resumes."""
        seed_everything(self.seed)
        readers = self._readers()
        source = self.data.open()
        held_out = self.held_out.open() if self.held_out else None
        model, spec, init = self._build(readers)
        if self.train.sample_prompts:
            model.require("generate", purpose="train.sample_prompts")
        for part in filter(None, (source, held_out)):
            check_fit(part, model, readers)
        self.objective.fits(model)
        return Trainer(
            model=model,
            spec=spec,
            readers=readers,
            objective=self.objective,
            source=source,
            held_out=held_out,
            data=self.data,
            held_out_data=self.held_out,
            config=self.train,
            seed=self.seed,
            out=out,
            log=log,
            parallel=parallel or Parallel(),
            init=init,
        )

    def _readers(self) -> Readers:
        """The readers that the checkpoint will have.

        Raises:
            ConfigError: held-out texts are read in another way than those of training.
        """
        readers = Readers(
            Tokenizer.load(self.tokenizer) if self.tokenizer else None,
            ImageReader.load(self.images) if self.images else None,
        )
        own, other = self.data.reader, self.held_out.reader if self.held_out else None
        if own and other and own != other:
            raise ConfigError(f"expected held_out to be read as data is, by {own}, got {other}; give both the same")
        return readers

    def _build(self, readers: Readers) -> tuple[Network, ModelSpec, str | None]:
        """The model, its spec, and the digest of the checkpoint it is from."""
        digest = None
        if self.init is not None:
            loaded = checkpoint.load(self.init)
            model, spec, digest = loaded.model, loaded.spec, loaded.digest
            check_start(self.init, loaded.readers, readers)
        else:
            assert self.model is not None
            spec = ModelSpec(self.model)
            model = spec.build()
        for transform in self.transforms:
            model = transform.apply(model)
        reader = self.data.reader
        spec = dataclasses.replace(
            spec,
            transforms=(*spec.transforms, *self.transforms),
            template=self.template or spec.template,
            tokenizer_digest=readers.tokenizer.digest if readers.tokenizer else "",
            images_digest=readers.images.digest if readers.images else "",
            reader=reader.fit_context(spec.words.context_length) if reader else spec.reader,
        )
        return model, spec, digest


def check_start(path: Path, theirs: Readers, ours: Readers) -> None:
    """Refuse to start from a checkpoint whose weights know other inputs than those that are made now.

    Raises:
        TokenizerMismatch: its tokenizer is another, and ours does more than extend it; or its image reader is another.
    """
    extended = theirs.tokenizer and ours.tokenizer and ours.tokenizer.extends(theirs.tokenizer)
    was, now = dict(theirs.present()), dict(ours.present())
    for name in sorted(was.keys() | now.keys()):
        differs = theirs.digests().get(name) != ours.digests().get(name)
        if differs and not (name == "tokenizer" and extended):
            raise TokenizerMismatch(
                f"the checkpoint {path} was trained with {name} {_describe_reader(was.get(name))}, "
                f"the data with {_describe_reader(now.get(name))}; prepare the data with the checkpoint's own"
            )


def _describe_reader(reader: Reader | None) -> str:
    return f"{reader.name} ({reader.digest[:12]})" if reader else "none"


def check_fit(source: Source, model: Network, readers: Readers) -> None:
    """Refuse data that the model cannot read.

    Raises:
        TokenizerMismatch: the data was made with another tokenizer or image reader.
        ConfigError: the data is of another kind, or has more words or longer samples than the model.
    """
    made_with = {"tokenizer": source.tokenizer_digest}
    if readers.images is not None:
        made_with["images"] = source.images_digest
    for name, digest in made_with.items():
        if digest != readers.digests().get(name, ""):
            raise TokenizerMismatch(
                f"the data was made with {name} {digest[:12] or 'none'}, "
                f"this run uses {_describe_reader(dict(readers.present()).get(name))}; "
                "prepare the data again with that one"
            )
    model.config.check_fit(source.limits)


def seed_everything(seed: int) -> None:
    """Seed python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
