"""A checkpoint: a folder that holds a model whole, and exists only when it is.

    model.json           the spec: sizes, transforms in order, prompt template, free notes
    model.safetensors    every weight once (tied weights are not repeated)
    tokenizer/, images/  the readers the model was trained with: a tokenizer, an image reader, or both
    training.json, training.safetensors     only in checkpoints that a run can resume from
    manifest.json        sha256 and size of all the above, written last

Only safetensors and JSON are read: nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gptcore.config import Config, later
from gptcore.errors import CheckpointError, ConfigError
from gptcore.files import read_json_object, verify_folder, whole_folder, write_json
from gptcore.models.base import Model, as_decoder
from gptcore.models.network import Network, NetworkConfig, WordNetworkConfig
from gptcore.readers import ImageReader, Readers, TextReader
from gptcore.tokenizer import Tokenizer
from gptcore.transforms.base import Head, Transform


@dataclass(frozen=True)
class ModelSpec(Config):
    """What a model is, apart from its weights."""

    model: NetworkConfig
    """Sizes of the model before any transform."""
    transforms: tuple[Transform, ...] = ()
    """Changes of its structure, in the order in which they are replayed."""
    template: str | None = None
    """Prompt template it was instructed with; None for a base model or a classifier."""
    tokenizer_digest: str = ""
    """Digest of the tokenizer beside the weights; empty where there is none."""
    images_digest: str = later("")
    """Digest of the image reader beside the weights; empty where there is none."""
    reader: TextReader = later(TextReader())
    """How text becomes the row that is classified; of no meaning to a language model."""

    @property
    def readers(self) -> dict[str, str]:
        """Digest of each reader beside the weights, by its folder's name."""
        digests = {"tokenizer": self.tokenizer_digest, "images": self.images_digest}
        return {name: digest for name, digest in digests.items() if digest}

    @property
    def head(self) -> Head | None:
        """What the head gives: what the last transform with a head says, or words; None where there is no head yet."""
        own: Head | None = "words" if isinstance(self.model, WordNetworkConfig) else None
        return next((each.head for each in reversed(self.transforms) if each.head), own)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the head's outputs, as those of classes; empty where they have none."""
        return next((each.outputs for each in reversed(self.transforms) if each.head), ())

    def merged(self) -> ModelSpec:
        """The same after the updates beside its layers were merged into them."""
        return replace(self, transforms=tuple(each for each in self.transforms if not each.merges_away))

    @property
    def words(self) -> WordNetworkConfig:
        """The sizes of a network that reads text.

        Raises:
            ConfigError: it reads something else.
        """
        if not isinstance(self.model, WordNetworkConfig):
            raise ConfigError(f"expected a model that reads text, got a {type(self.model).__name__}")
        return self.model

    def build(self) -> Network:
        """The structure with fresh weights."""
        model = self.model.build()
        for transform in self.transforms:
            model = transform.apply(model)
        return model


class Loaded(NamedTuple):
    """A checkpoint in memory."""

    model: Network
    spec: ModelSpec
    readers: Readers
    digest: str
    """sha256 of the manifest: the identity of these exact bytes."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer.

        Raises:
            ConfigError: the network does not read text.
        """
        return self.readers.words()

    @property
    def decoder(self) -> Model:
        """The model as a decoder of text.

        Raises:
            ConfigError: it is of another kind.
        """
        return as_decoder(self.model, purpose="decoding")


class TrainingState(NamedTuple):
    """What a run needs beside the weights to go on as if it had never stopped."""

    values: dict[str, Any]
    """JSON values: step, best metric, fingerprints."""
    tensors: dict[str, Tensor]
    """The optimizer's moments."""


def unique_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict without repeats of shared tensors, and the repeats' names with the name that stands for them."""
    first: dict[int, str] = {}
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner = first.setdefault(id(tensor), name)
        if owner == name:
            kept[name] = tensor.detach()
        else:
            aliases[name] = owner
    return kept, aliases


def save(
    path: Path,
    *,
    model: Network,
    spec: ModelSpec,
    tokenizer: Tokenizer | None = None,
    images: ImageReader | None = None,
    training: TrainingState | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a checkpoint folder in one step; an older one at ``path`` is replaced.

    Args:
        path: the folder.
        model: whose weights are written.
        spec: what it is.
        tokenizer: that it was trained with, if it reads text.
        images: the image reader that it was trained with, if it reads images.
        training: what a run needs to go on.
        dtype: bf16 or fp16 stores the weights in half of the bytes; they are fp32 again when they are loaded.

    Raises:
        CheckpointError: a weight is too large for ``dtype``.
        OutOfDiskError: it did not fit; nothing half-written is left.
    """
    tensors, _ = unique_tensors(model)
    if dtype is not None:
        tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
        lost = [name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
        if lost:
            raise CheckpointError(f"{path}: {lost[0]} has weights beyond the range of {dtype}; store it as bf16")
    with whole_folder(path) as folder:
        fill(folder, tensors=tensors, spec=spec, readers=Readers(tokenizer, images), training=training)


def fill(
    folder: Path,
    *,
    tensors: dict[str, Tensor] | None,
    spec: ModelSpec,
    readers: Readers,
    training: TrainingState | None = None,
) -> None:
    """Write a checkpoint's files into a folder that ``whole_folder`` gave.

    Args:
        folder: where to.
        tensors: every weight once; None where the weights lie in shards beside.
        spec: what the model is.
        readers: that it was trained with.
        training: what a run needs to go on.
    """
    write_json(folder / "model.json", spec.to_dict())
    if tensors is not None:
        save_tensors(tensors, folder / "model.safetensors", path=folder)
    readers.save(folder)
    if training is not None:
        write_json(folder / "training.json", training.values)
        save_tensors(training.tensors, folder / "training.safetensors", path=folder)


def save_tensors(tensors: dict[str, Tensor], file: Path, *, path: Path) -> None:
    """Write a safetensors file of the checkpoint ``path``.

    Raises:
        OSError: the disk is full.
        CheckpointError: the tensors cannot be written for another reason.
    """
    try:
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(whole, file, metadata={"format": "pt"})
    except SafetensorError as error:
        # safetensors wraps the operating system's error in its own and keeps only the text
        if any(sign in str(error) for sign in ("No space left", "StorageFull", "File too large", "FileTooLarge")):
            raise OSError(28, "No space left on device") from error
        raise CheckpointError(f"{path} could not be written: {error}") from error


def load(path: Path, *, device: torch.device | str = "cpu") -> Loaded:
    """Read a checkpoint, its bytes verified against the manifest; the model is in evaluation mode.

    Raises:
        CheckpointError: something is missing or damaged, or the weights do not fit the spec.
    """
    digest = verify_folder(path, CheckpointError)
    spec = read_spec(path)
    _check_promises(spec, path)
    with torch.random.fork_rng(devices=[]):
        # building draws weights that are overwritten at once; the caller's random stream must not notice
        model = spec.build()
    load_weights(model, path)
    readers = Readers.load(path)
    readers.check(spec.readers, needs=f"{path}: model.json was written for", holds="the folder holds {}")
    return Loaded(model.to(device).eval(), spec, readers, digest)


def _check_promises(spec: ModelSpec, path: Path) -> None:
    """Refuse a spec whose model could not be in the file, before any memory of its size is asked for.

    A weight takes a bit at least.

    Raises:
        CheckpointError: it promises more than the file can hold.
    """
    n_bytes = (path / "model.safetensors").stat().st_size if (path / "model.safetensors").is_file() else 0
    least = spec.model.least_numbers()
    if least > 8 * n_bytes:
        raise CheckpointError(
            f"{path}: model.json promises a {spec.model.said()} of at least {least:,} numbers, but model.safetensors "
            f"has {n_bytes:,} bytes; it is damaged"
        )


def read_spec(path: Path) -> ModelSpec:
    """The spec of a checkpoint, without its weights."""
    return ModelSpec.from_dict(read_json_object(path / "model.json", CheckpointError))


def load_weights(model: nn.Module, path: Path, *, put: Callable[[Tensor, Tensor], None] | None = None) -> None:
    """Put a checkpoint's weights into a model of the same structure.

    Args:
        model: the model.
        path: the checkpoint.
        put: copies a whole tensor (second) into one of the model's, where these are spread over processes.

    Raises:
        CheckpointError: a tensor is missing, left over, or of another shape.
    """
    tensors = _load_tensors(path / "model.safetensors")
    own, _ = unique_tensors(model)
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        raise CheckpointError(
            f"{path}: the weights do not fit model.json; missing {missing[:3]}, left over {extra[:3]}"
        )
    for name, tensor in own.items():
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, the model needs {tuple(tensor.shape)}"
            )
    for name, tensor in own.items():
        (put or torch.Tensor.copy_)(tensor, tensors[name])


def load_training(path: Path) -> TrainingState:
    """The part of a checkpoint that a run resumes from.

    Raises:
        CheckpointError: the checkpoint was saved without it, or it is damaged.
    """
    try:
        values = json.loads((path / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be resumed from: {error}") from error
    return TrainingState(values, _load_tensors(path / "training.safetensors"))


def _load_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def save_adapter(
    path: Path, *, tensors: dict[str, Tensor], spec: ModelSpec, tokenizer: Tokenizer | None = None
) -> None:
    """Write trained tensors alone, with the spec that says what they adapt.

    Args:
        path: the folder to write.
        tensors: the trained tensors by name.
        spec: of the adapted model, its tokenizer's digest included.
        tokenizer: of the adapted model, where it has special tokens that the base's lacks.

    Raises:
        OutOfDiskError: it did not fit; nothing half-written is left.
    """
    with whole_folder(path) as folder:
        write_json(folder / "model.json", spec.to_dict())
        save_tensors(tensors, folder / "adapter.safetensors", path=path)
        if tokenizer is not None:
            tokenizer.save(folder / "tokenizer")


def load_adapter(path: Path, base: Path) -> Loaded:
    """The base checkpoint with an adapter on it; weights that the adapter does not hold are the base's.

    Raises:
        CheckpointError: one of both is damaged, or the adapter was not made from a base of these shapes.
    """
    digest = verify_folder(path, CheckpointError)
    below = load(base)
    spec = read_spec(path)
    n_own = len(below.spec.transforms)
    if spec.model != below.spec.model or spec.transforms[:n_own] != below.spec.transforms:
        raise CheckpointError(f"the adapter {path} was made from another model than {base}")
    brought = Readers.load(path)
    readers = Readers(brought.tokenizer or below.readers.tokenizer, brought.images or below.readers.images)
    holds = "its base has {}; save the adapter with its tokenizer"
    readers.check(spec.readers, needs=f"the adapter {path} was trained with", holds=holds)
    model = below.model
    for transform in spec.transforms[n_own:]:
        model = transform.apply(model)
    tensors = _load_tensors(path / "adapter.safetensors")
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if own.keys() != tensors.keys():
        raise CheckpointError(f"the adapter {path} does not hold exactly the trained tensors of its spec")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
    return Loaded(model.eval(), spec, readers, digest)
