"""A family of models as one object: its classes, its forms in other programs, and what can be done with it.

Each family registers itself once, where its folder is imported. What is asked of a family elsewhere (export, kernels,
pruning) is asked of this object, never of a model's class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gptcore.components import load_components
from gptcore.errors import ConfigError
from gptcore.models.base import ModelConfig
from gptcore.models.gguf_graph import GGUFNumbers
from gptcore.models.network import Network, NetworkConfig


@dataclass(frozen=True)
class HFClassifier:
    """How a classifier is written for transformers."""

    architecture: str
    """The class there; its head has no bias."""
    norm_bias: str
    """transformers' name of the final norm's bias, which takes the head's."""


@dataclass(frozen=True)
class HFForm:
    """How a family is written for transformers, and read."""

    model_type: str
    """In ``config.json``."""
    to_config: Callable[..., dict[str, Any]]
    """(configuration, end_of_text=) to ``config.json``."""
    from_config: Callable[[dict[str, Any]], ModelConfig]
    """Back; a CheckpointError where it is another model than ours."""
    to_tensors: Callable[[Any], dict[str, Tensor]]
    """The model's weights under transformers' names."""
    load_tensors: Callable[[Any, dict[str, Tensor]], None]
    """Back, into a model; a CheckpointError where they do not fit."""
    names: Callable[[Any], dict[str, tuple[str, ...]]]
    """(configuration) to our parameters' names with transformers'; several of theirs stand in one of ours."""
    rows: Callable[[Any, str], list[int]]
    """(configuration, our name) to the rows of each of theirs in ours; empty where there is one."""
    transposed: bool
    """Whether transformers stores linear layers inputs first."""
    classifier: HFClassifier | None = None
    """None where a classifier has no form there."""


@dataclass(frozen=True)
class GGUFForm:
    """How a family is written in GGUF, and read, by way of its form for transformers."""

    architecture: str
    """llama.cpp's name."""
    to_fields: Callable[[Mapping[str, Any]], dict[str, int | float]]
    """``config.json`` to the architecture's fields."""
    from_fields: Callable[[Mapping[str, Any]], dict[str, Any]]
    """All fields of a file to ``config.json``."""
    to_tensors: Callable[..., dict[str, Tensor]]
    """(transformers' tensors, config=``config.json``) to llama.cpp's."""
    from_tensors: Callable[..., dict[str, Tensor]]
    """Back."""
    graph: Callable[[GGUFNumbers, Tensor], Tensor]
    """(file, tokens (T,) int64) to normalised features (T, C), as llama.cpp computes them and from the file alone."""


@dataclass(frozen=True)
class Family:
    """What there is to know of a family."""

    name: str
    """The name that clients of a server see."""
    config: type[NetworkConfig]
    """Our configuration."""
    network: type[Network]
    """What it builds."""
    hf: HFForm | None = None
    """None where transformers has no such model."""
    gguf: GGUFForm | None = None
    """None where llama.cpp has no such model; only with ``hf``."""
    layout: str | None = None
    """The kernels' name of its blocks' arrangement; None where they compute its layers one by one."""
    can_be_pruned: bool = False
    """Whether ``gptcore.compress`` knows the arrangement of its heads and neurons."""


_FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> Family:
    """Make a family known, and return it.

    Raises:
        ConfigError: another one has its name, a class of its, or its name in another program.
    """
    for other in _FAMILIES.values():
        taken = _identities(other) & _identities(family)
        if taken and other != family:
            raise ConfigError(
                f"the family {family.name!r} cannot be registered: {', '.join(sorted(taken))} belongs to "
                f"{other.name!r} already; rename one"
            )
    _FAMILIES[family.name] = family
    return family


def families() -> tuple[Family, ...]:
    """All families, those of installed components among them."""
    load_components()
    return tuple(_FAMILIES.values())


def find_family(part: Network | NetworkConfig) -> Family | None:
    """The family of exactly this class of model or configuration; None if no one has registered it."""
    return next((each for each in _FAMILIES.values() if type(part) in (each.network, each.config)), None)


def family_of(part: Network | NetworkConfig) -> Family:
    """The family of exactly this class of model or configuration.

    Raises:
        ConfigError: no one has registered it.
    """
    family = find_family(part)
    if family is None:
        known = ", ".join(each.network.__name__ for each in families())
        raise ConfigError(
            f"no family of models is registered for {type(part).__name__} (known: {known}), so it has no form in other "
            "programs; describe it in a Family and give it to register_family"
        )
    return family


def _identities(family: Family) -> set[str]:
    own = {f"the name {family.name}", f"the class {family.config.__name__}", f"the class {family.network.__name__}"}
    own |= {f"the model_type {family.hf.model_type}"} if family.hf else set()
    return own | ({f"the architecture {family.gguf.architecture}"} if family.gguf else set())
