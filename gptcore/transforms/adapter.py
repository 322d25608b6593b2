"""Adapters: the weights are frozen, and an update beside some of the linear layers is trained.

An adapter is one class: how a layer is wrapped, and its form in the library peft with the way back. What registers as a
``Config`` is found by its name in a checkpoint, and is asked here whether an adapter of peft's is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from torch import Tensor, nn

from gptcore.config import Json
from gptcore.errors import ConfigError
from gptcore.models.network import Network
from gptcore.nn.linear import Adapted, takes_update
from gptcore.nn.surgery import freeze, replace_modules
from gptcore.transforms.base import Transform, stack_modules


class PeftPart(NamedTuple):
    """What peft has for one of the matrices of transformers' that stand in one of ours."""

    tensors: dict[str, Tensor]
    """By the last names, as in ``lora_A.weight``; empty where the matrix is not adapted."""
    n_rows: int
    """Rows of the matrix."""


@dataclass(frozen=True)
class Adapter(Transform):
    """Base of all adapters."""

    merges_away = True

    def to_peft(self) -> Json:
        """What ``adapter_config.json`` says of it besides the layers' names.

        Raises:
            ConfigError: it has no form in peft.
        """
        raise ConfigError(f"{type(self).__name__} has no form in peft; export it with --to hf, merged")

    def peft_parts(self, layer: Adapted, rows: Sequence[int]) -> list[dict[str, Tensor]]:
        """A layer's update under peft's last names, for each of transformers' matrices that stand in it.

        Args:
            layer: one that this adapter has made.
            rows: of each of the matrices.
        """
        raise NotImplementedError

    @classmethod
    def unlike_peft(cls, config: Json) -> str:
        """What in an ``adapter_config.json`` is not of this kind of adapter; empty if it can be read by it."""
        del config
        return f"{cls.__name__} is not a form of peft's"

    @classmethod
    def from_peft(
        cls, config: Json, layers: Mapping[str, Sequence[PeftPart]], *, place: Path
    ) -> tuple[Self, dict[str, dict[str, Tensor]]]:
        """The adapter, and the tensors of each of its layers by the layer's and their own names.

        Args:
            config: ``adapter_config.json``, in which ``unlike_peft`` found nothing.
            layers: what peft has for each of our layers, by name.
            place: the folder, for messages.

        Raises:
            CheckpointError: settings or shapes cannot be.
        """
        raise NotImplementedError


def adapt(
    model: Network, *, targets: Sequence[str], also_train: Sequence[str], wrap: Callable[[nn.Module], Adapted]
) -> Network:
    """Freeze a model and put ``wrap(layer)`` in the place of each linear layer of its stacks with a target's name.

    Args:
        model: changed in place.
        targets: last names of layers.
        also_train: dotted names of modules that are trained in full beside the updates.
        wrap: makes the layer with its update.

    Raises:
        ConfigError: no layer has a target's name, or a module of ``also_train`` does not exist.
    """
    freeze(model)
    inside = stack_modules(model)
    for target in targets:
        replace_modules(
            model,
            lambda name, module, target=target: (  # type: ignore[misc]
                name.rpartition(".")[2] == target and module in inside and takes_update(module)
            ),
            wrap,
        )
    for name in also_train:
        _train(model, name)
    return model


def _train(model: Network, name: str) -> None:
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise ConfigError(f"also_train names {name!r}, which is no module of the model") from error
    if not list(module.parameters()):
        raise ConfigError(f"also_train names {name!r}, whose weights are quantized; only fp32 weights can be trained")
    freeze(module, frozen=False)


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trained tensors alone, by name: the updates and what ``also_train`` named."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
