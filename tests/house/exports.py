"""Exports that nobody in the tree knows: one that is read back, one that spoils a weight, one that cannot be read back
and says why, and one that does not say it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gptcore.checkpoint import ModelSpec
from gptcore.errors import CheckpointError
from gptcore.export import Export, Option
from gptcore.export.exporter import Exporter, Job, Outputs, outputs_of, tokens_of
from gptcore.files import read_json_object, write_json, write_text
from gptcore.models.network import as_words

PRECISION = Option("precision", "Of the weights.", default="single", choices=("single", "half"))


@dataclass(frozen=True)
class NpzExporter(Exporter):
    """The weights as an archive of numpy, of any network that reads text."""

    precision: str = "single"

    marks = ("weights.npz", "spec.json")

    @property
    def exact(self) -> bool:
        return self.precision == "single"

    def write(self, job: Job, folder: Path) -> None:
        write_json(folder / "spec.json", job.loaded.spec.merge().to_dict())
        dtype = np.float32 if self.exact else np.float16
        np.savez(folder / "weights.npz", **{name: t.astype(dtype) for name, t in self.weights(job).items()})

    def weights(self, job: Job) -> dict[str, NDArray[Any]]:
        """By name."""
        return {name: tensor.numpy() for name, tensor in job.loaded.model.state_dict().items()}

    def read(self, job: Job, folder: Path) -> Outputs:
        spec = ModelSpec.from_dict(read_json_object(folder / "spec.json", CheckpointError))
        with np.load(folder / "weights.npz") as archive:
            tensors = {name: torch.from_numpy(archive[name].astype(np.float32)) for name in archive.files}
        most = 0 if self.exact else 1e-3
        for name, tensor in job.loaded.model.state_dict().items():
            if not torch.allclose(tensors[name], tensor, rtol=most, atol=most / 1000):
                raise CheckpointError(f"{name} has changed")
        model = spec.build()
        model.load_state_dict(tensors)
        return outputs_of(as_words(model.eval(), purpose="logits"), tokens_of(job))


class Unlooked(NpzExporter):
    """It reads back without a look at the single numbers."""

    def read(self, job: Job, folder: Path) -> Outputs:
        spec = ModelSpec.from_dict(read_json_object(folder / "spec.json", CheckpointError))
        model = spec.build()
        with np.load(folder / "weights.npz") as archive:
            model.load_state_dict({name: torch.from_numpy(archive[name]) for name in archive.files})
        return outputs_of(as_words(model.eval(), purpose="logits"), tokens_of(job))


class Spoiled(Unlooked):
    """One weight of many is written as another number."""

    def weights(self, job: Job) -> dict[str, NDArray[Any]]:
        weights = {name: values.copy() for name, values in super().weights(job).items()}
        weights["blocks.1.attention.out.weight"][0, 0] += 0.5
        return weights


class Words(Exporter):
    """The tokens, one a line."""

    marks = ("words.txt",)
    unread = "a list of words holds no weights"

    def write(self, job: Job, folder: Path) -> None:
        write_text(folder / "words.txt", "\n".join(map(repr, job.loaded.tokenizer.ranks)))


class Mute(Words):
    """The same, and no word of why."""

    unread = ""


def archive(exporter: str, name: str = "npz") -> Export:
    """An archive of any text network's weights."""
    where = f"tests.house.exports:{exporter}"
    return Export(name, "an archive for numpy", where, takes={"words": ("words",)}, options=(PRECISION,))


NPZ = archive("NpzExporter")
WORDS = Export("words", "a list of words", "tests.house.exports:Words", takes={"words": ("words",)})
