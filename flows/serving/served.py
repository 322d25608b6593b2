"""The model that is served, and what the protocols show of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from flows.serving.refusal import Refusal
from gptcore.files import MANIFEST, file_sha256
from gptcore.models import find_family
from gptcore.nn import count_parameters
from gptcore.nn.linear import main_form
from gptcore.text import TextModel

_WEIGHTS = "*.safetensors"
_FORMS = {"fp32": "F32", "nf4": "NF4"}


@dataclass(frozen=True)
class Served:
    """A model under a name."""

    name: str
    """What clients call it."""
    text: TextModel
    """The model itself."""
    digest: str
    """sha256 (hex) of the checkpoint's manifest, which holds the sha256 of every file."""
    n_bytes: int
    """Size of the weights on disk."""
    modified: datetime
    """When the checkpoint was written."""
    quantization: str
    """``F32``, ``int8``, ``int4``, ``NF4``, or what the layers say that they are stored as."""

    @staticmethod
    def load(path: Path, *, name: str, template: str | None = None) -> Served:
        """Read a checkpoint; ``template`` overrides the one saved in it.

        Raises:
            ConfigError: its head is not over words, or the template is unknown.
            CheckpointError: it is missing or damaged, or its tokenizer is not the one it was trained with.
        """
        text = TextModel.load(path, template=template)
        if text.template is not None:
            text.template.check_tokenizer(text.tokenizer)
        manifest = path / MANIFEST
        form = main_form(nn.ModuleList(text.model.each_block()))
        return Served(
            name=name,
            text=text,
            digest=file_sha256(manifest),
            n_bytes=sum(file.stat().st_size for file in path.glob(_WEIGHTS)),
            modified=datetime.fromtimestamp(manifest.stat().st_mtime, UTC),
            quantization=_FORMS.get(form, form),
        )

    @property
    def context_length(self) -> int:
        """The most tokens of prompt and answer together."""
        return self.text.model.config.context_length

    @property
    def family(self) -> str:
        """The name of the model's family; that of its class where none is registered."""
        family = find_family(self.text.model)
        return family.name if family else type(self.text.model).__name__.lower()

    def check_name(self, name: str) -> None:
        """Refuse another model's name; as for Ollama, ``:latest`` may be left out.

        Raises:
            Refusal: the model has another name.
        """
        if name.removesuffix(":latest") != self.name.removesuffix(":latest"):
            raise Refusal(
                f"model {name!r} not found; expected {self.name!r}",
                status=404,
                code="model_not_found",
                param="model",
            )

    @property
    def details(self) -> dict[str, Any]:
        """Format, family and size in Ollama's form."""
        n_parameters = count_parameters(self.text.model).total
        scaled = f"{n_parameters / 1e6:.1f}M" if n_parameters >= 1e6 else f"{n_parameters / 1e3:.1f}K"
        return {
            "parent_model": "",
            "format": "safetensors",
            "family": self.family,
            "families": [self.family],
            "parameter_size": scaled,
            "quantization_level": self.quantization,
        }
