"""The steps of a compression method: a checkpoint in, a checkpoint out.

Methods that begin with the same steps share what these make; what an interrupted attempt has made is not made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from flows.launch.launcher import train as train_run
from flows.stages.compress.recipe import TRAINING, CompressStage
from flows.stages.context import Context
from gptcore import checkpoint
from gptcore.checkpoint import Loaded, ModelSpec
from gptcore.compress import (
    Calibration,
    calibrate,
    gptq,
    magnitude,
    prunable,
    prunable_sizes,
    prune_blocks,
    prune_heads,
    prune_hidden,
    smaller,
    wanda,
)
from gptcore.data import Data
from gptcore.files import MANIFEST
from gptcore.models import GPT, GPTConfig
from gptcore.models.network import Network
from gptcore.objectives import Distill, Objective
from gptcore.run import Run, seed_everything
from gptcore.train.logger import PrefixedLogger
from gptcore.transforms import NF4, Quantize, Transform

_HIDDEN_MULTIPLE = 64
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SIZES = ("n_layers", "n_heads", "width", "head_width", "hidden_width")


@dataclass(frozen=True)
class Subject:
    """A model that is compressed, and the data it was trained on."""

    name: str
    """``language`` or ``classifier``."""
    checkpoint: Path
    """The original."""
    train: Data
    """For calibration and for training afterwards."""
    held_out: Data
    """Held-out loss while it is trained."""
    objective: Objective
    """What it was trained for."""


@dataclass(frozen=True)
class Workshop:
    """Makes the compressed forms of one subject."""

    subject: Subject
    config: CompressStage
    context: Context
    folder: Path
    """Where they are written, each below the name of its steps."""

    def make(self, steps: tuple[str, ...]) -> Path:
        """The checkpoint after some steps, made now unless it is there; the original after none.

        Raises:
            ConfigError: a step cannot be applied to this model.
        """
        if not steps:
            return self.subject.checkpoint
        path = self.folder / "+".join(steps) / "checkpoint"
        if (path / MANIFEST).is_file():
            return path
        source, step = self.make(steps[:-1]), steps[-1]
        if step in TRAINING:
            self._train(source, path.parent, step)
        else:
            self._change(source, path, step)
        return path

    def _change(self, source: Path, path: Path, step: str) -> None:
        seed_everything(self.context.seed)
        loaded = checkpoint.load(source)
        spec = loaded.spec.merge()
        if step in _DTYPES:
            checkpoint.save(path, model=loaded.model, spec=loaded.spec, **loaded.readers._asdict(), dtype=_DTYPES[step])
            return
        model: Network
        if step in ("magnitude", "wanda"):
            model = self._with_zeros(loaded, step)
        elif step == "student":
            student = smaller(prunable_sizes(spec.model), layers=self.config.layers_kept, width=self.config.width_kept)
            spec = fit_spec(spec, student)
            model = spec.build()
        elif step in _STRUCTURE:
            pruned = _STRUCTURE[step](loaded.model, self._calibration(loaded), self.config)
            sizes = {name: getattr(pruned.config, name) for name in _SIZES}
            model, spec = pruned, fit_spec(spec, replace(prunable_sizes(spec.model), **sizes))
        else:
            transform = self._transform(step)
            spec = replace(loaded.spec, transforms=(*loaded.spec.transforms, transform))
            if step == "gptq":
                model = gptq(loaded.model, self._calibration(loaded), self._int4)
            else:
                model = transform.apply(loaded.model)
        checkpoint.save(path, model=model, spec=spec, **loaded.readers._asdict())

    def _transform(self, step: str) -> Transform:
        if step == "nf4":
            return NF4(block_size=self.config.block_size)
        if step in ("int8", "int8-dynamic"):
            activation_bits: Literal[16, 32] = 16 if step == "int8-dynamic" else 32
            return Quantize(bits=8, group_size=self.config.group_size, activation_bits=activation_bits)
        return self._int4

    @property
    def _int4(self) -> Quantize:
        return Quantize(bits=4, group_size=self.config.group_size)

    def _with_zeros(self, loaded: Loaded, step: str) -> GPT:
        model = prunable(loaded.model)
        if step == "magnitude":
            magnitude(model, self.config.zeros())
        else:
            wanda(model, self._calibration(loaded), self.config.zeros())
        return model

    def _calibration(self, loaded: Loaded) -> Calibration:
        source = self.subject.train.open()
        return calibrate(loaded.model, source, n_samples=self.config.calibration_samples, seed=self.context.seed)

    def _train(self, source: Path, out: Path, step: str) -> None:
        objective = self.subject.objective
        if step == "distill":
            objective = Distill(
                self.subject.checkpoint, objective, temperature=self.config.temperature, soft=self.config.soft
            )
        run = Run(
            init=source,
            data=self.subject.train,
            held_out=self.subject.held_out,
            objective=objective,
            tokenizer=source / "tokenizer",
            train=self.config.train,
            seed=self.context.seed,
        )
        log = PrefixedLogger(self.context.log, prefix=f"{self.subject.name}/{out.name.replace('+', '-')}")
        train_run(run, out, log, launch=self.context.launch, on_progress=self.context.on_progress)


def _prune_heads(model: Network, calibration: Calibration, config: CompressStage) -> GPT:
    return prune_heads(model, calibration, kept=max(1, round(config.heads_kept * prunable_sizes(model.config).n_heads)))


def _prune_hidden(model: Network, calibration: Calibration, config: CompressStage) -> GPT:
    kept = max(1, round(config.hidden_kept * prunable_sizes(model.config).hidden_size))
    return prune_hidden(model, calibration, kept=kept // _HIDDEN_MULTIPLE * _HIDDEN_MULTIPLE or kept)


def _prune_depth(model: Network, calibration: Calibration, config: CompressStage) -> GPT:
    return prune_blocks(model, calibration, kept=max(1, round(config.layers_kept * model.config.n_layers)))


_STRUCTURE: dict[str, Callable[[Network, Calibration, CompressStage], GPT]] = {
    "heads": _prune_heads,
    "hidden": _prune_hidden,
    "depth": _prune_depth,
}


def fit_spec(spec: ModelSpec, sizes: GPTConfig) -> ModelSpec:
    """The same model in other sizes; a classifier trains no more blocks than there are."""
    transforms = tuple(each.for_blocks(sizes.n_layers) for each in spec.transforms)
    return replace(spec, model=sizes, transforms=transforms)
