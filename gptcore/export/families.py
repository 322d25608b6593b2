"""The families of models, and what other programs call their parts.

Hugging Face's form is the one in the middle: GGUF is reached by way of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gptcore.errors import CheckpointError, ConfigError
from gptcore.models import GPT, Llama, Model, ModelConfig
from gptcore.models.gpt import gguf as gpt_gguf
from gptcore.models.gpt import hf as gpt_hf
from gptcore.models.llama import gguf as llama_gguf
from gptcore.models.llama import hf as llama_hf


@dataclass(frozen=True)
class Family:
    """How a family is written and read."""

    model: type[Model]
    """Our class."""
    model_type: str
    """In ``config.json``."""
    architecture: str
    """In GGUF."""
    to_hf_config: Callable[..., dict[str, Any]]
    """(configuration, end_of_text=) to ``config.json``."""
    from_hf_config: Callable[[dict[str, Any]], ModelConfig]
    """Back; a CheckpointError where it is another model than ours."""
    to_hf_tensors: Callable[[Any], dict[str, Tensor]]
    """The model's weights under transformers' names."""
    load_hf_tensors: Callable[[Any, dict[str, Tensor]], None]
    """Back, into a model; a CheckpointError where they do not fit."""
    names: Callable[[Any], dict[str, tuple[str, ...]]]
    """(configuration) to our parameters' names with transformers'; several of theirs stand in one of ours."""
    rows: Callable[[Any, str], list[int]]
    """(configuration, our name) to the rows of each of theirs in ours; empty where there is one."""
    transposed: bool
    """Whether transformers stores linear layers inputs first."""
    to_gguf_fields: Callable[[Mapping[str, Any]], dict[str, int | float]]
    """``config.json`` to the architecture's fields."""
    from_gguf_fields: Callable[[Mapping[str, Any]], dict[str, Any]]
    """All fields of a file to ``config.json``."""
    to_gguf_tensors: Callable[..., dict[str, Tensor]]
    """(transformers' tensors, config=``config.json``) to llama.cpp's."""
    from_gguf_tensors: Callable[..., dict[str, Tensor]]
    """Back."""


FAMILIES: tuple[Family, ...] = (
    Family(
        model=GPT,
        model_type="gpt2",
        architecture=gpt_gguf.ARCHITECTURE,
        to_hf_config=gpt_hf.to_hf_config,
        from_hf_config=gpt_hf.from_hf_config,
        to_hf_tensors=gpt_hf.to_hf_tensors,
        load_hf_tensors=gpt_hf.load_hf_tensors,
        names=lambda config: {ours: (theirs,) for ours, theirs in gpt_hf.name_map(config).items()},
        rows=lambda *_: [],
        transposed=True,
        to_gguf_fields=gpt_gguf.to_gguf_fields,
        from_gguf_fields=gpt_gguf.from_gguf_fields,
        to_gguf_tensors=gpt_gguf.to_gguf_tensors,
        from_gguf_tensors=gpt_gguf.from_gguf_tensors,
    ),
    Family(
        model=Llama,
        model_type="llama",
        architecture=llama_gguf.ARCHITECTURE,
        to_hf_config=llama_hf.to_hf_config,
        from_hf_config=llama_hf.from_hf_config,
        to_hf_tensors=llama_hf.to_hf_tensors,
        load_hf_tensors=llama_hf.load_hf_tensors,
        names=llama_hf.name_map,
        rows=llama_hf.rows_of,
        transposed=False,
        to_gguf_fields=llama_gguf.to_gguf_fields,
        from_gguf_fields=llama_gguf.from_gguf_fields,
        to_gguf_tensors=llama_gguf.to_gguf_tensors,
        from_gguf_tensors=llama_gguf.from_gguf_tensors,
    ),
)


def family_of(model: Model) -> Family:
    """The family of a model.

    Raises:
        ConfigError: no other program knows it.
    """
    for family in FAMILIES:
        if isinstance(model, family.model):
            return family
    raise ConfigError(f"a {type(model).__name__} has no form in other programs")


def family_named(name: object, *, place: str) -> Family:
    """The family that a ``config.json`` or a GGUF file names.

    Raises:
        CheckpointError: it is none of ours.
    """
    for family in FAMILIES:
        if name in (family.model_type, family.architecture):
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise CheckpointError(f"{place} describes a {name!r} model; only {known} can be imported")


def model_with(family: Family, config: ModelConfig, tensors: dict[str, Tensor], *, place: str) -> Model:
    """A model of the weights under transformers' names, in evaluation mode.

    Names and shapes are compared before anything of the promised sizes is made.

    Raises:
        CheckpointError: they do not fit the configuration.
    """
    if config.n_layers > len(tensors):
        raise CheckpointError(f"{place} promises {config.n_layers:,} blocks and holds {len(tensors):,} tensors")
    with _Undrawn():
        try:
            with torch.device("meta"):
                family.load_hf_tensors(config.build(), {name: t.to("meta") for name, t in tensors.items()})
        except RuntimeError as error:  # sizes whose product is no number of torch's
            raise CheckpointError(f"{place} promises a model that cannot be: {error}") from error
        model = config.build()
    family.load_hf_tensors(model, tensors)
    return model.eval()


class _Undrawn(TorchFunctionMode):
    """Weights are not drawn, since all of them are overwritten; on the meta device it would take torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))
