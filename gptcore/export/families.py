"""The registered families, seen from other programs: by what these call them.

Hugging Face's form is the one in the middle: GGUF is reached by way of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptcore.errors import CheckpointError, ConfigError
from gptcore.models import Model, ModelConfig, Network, NetworkConfig, families, family_of
from gptcore.models.blueprint import Undrawn
from gptcore.models.family import GGUFForm, HFForm


def hf_form(part: Network | NetworkConfig) -> HFForm:
    """How a model's family is written for transformers.

    Raises:
        ConfigError: it has no family, or no form there.
    """
    family = family_of(part)
    if family.hf is None:
        raise ConfigError(f"the family {family.name!r} has no form in transformers; its Family has no HFForm")
    return family.hf


def gguf_form(part: Network | NetworkConfig) -> tuple[HFForm, GGUFForm]:
    """How a model's family is written in GGUF, by way of its form for transformers.

    Raises:
        ConfigError: it has no family, or lacks one of the forms.
    """
    family = family_of(part)
    if family.gguf is None:
        raise ConfigError(f"the family {family.name!r} has no form in GGUF; its Family has no GGUFForm")
    return hf_form(part), family.gguf


def hf_form_named(name: object, *, place: str) -> HFForm:
    """The form of the family that a ``config.json`` names.

    Raises:
        CheckpointError: it is none of ours.
    """
    forms = {family.hf.model_type: family.hf for family in families() if family.hf}
    if name not in forms:
        raise CheckpointError(f"{place} describes a {name!r} model; only {', '.join(forms)} can be imported")
    return forms[str(name)]


def gguf_form_named(name: object, *, place: str) -> tuple[HFForm, GGUFForm]:
    """The forms of the family whose architecture a GGUF file names.

    Raises:
        CheckpointError: it is none of ours.
    """
    forms = {each.gguf.architecture: (each.hf, each.gguf) for each in families() if each.hf and each.gguf}
    if name not in forms:
        raise CheckpointError(f"{place} describes a {name!r} model; only {', '.join(forms)} can be imported")
    return forms[str(name)]


def model_with(form: HFForm, config: ModelConfig, tensors: dict[str, Tensor], *, place: str) -> Model:
    """A model of the weights under transformers' names, in evaluation mode.

    Names and shapes are compared before anything of the promised sizes is made.

    Raises:
        CheckpointError: they do not fit the configuration.
    """
    if config.n_layers > len(tensors):
        raise CheckpointError(f"{place} promises {config.n_layers:,} blocks and holds {len(tensors):,} tensors")
    with Undrawn():
        try:
            with torch.device("meta"):
                form.load_tensors(config.build(), {name: t.to("meta") for name, t in tensors.items()})
        except RuntimeError as error:  # sizes whose product is no number of torch's
            raise CheckpointError(f"{place} promises a model that cannot be: {error}") from error
        model = config.build()
    form.load_tensors(model, tensors)
    return model.eval()
