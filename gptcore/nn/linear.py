"""Layers that stand for a plain one: stored in other numbers, or with a trained update beside it.

What is plain is known from the model's configuration (``gptcore.models.blueprint``); what is neither plain nor a
``StandIn`` is refused by its name wherever a model is exported or quantized, since nobody can say what it computes.

Shapes: O outputs (rows), I inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn


class StandIn(nn.Module):
    """A layer in the place of a plain linear layer or embedding."""

    carries: ClassVar[bool] = False
    """Whether an update may stand beside it: a gradient flows through it to its input without keeping the weights."""

    @property
    def stored_as(self) -> str:
        """The form of the weights: ``fp32``, ``int8``, ``int4``, ``nf4`` or another's name."""
        raise NotImplementedError

    def dense(self) -> Tensor:
        """The fp32 weight (O, I) that it stands for."""
        raise NotImplementedError

    def merged(self) -> nn.Module:
        """A plain layer that computes the same; its weights are in fp32 at least."""
        raise NotImplementedError


class Adapted(StandIn):
    """A frozen layer with a trained update beside it."""

    base: nn.Module
    """The layer, plain or one that ``carries``."""

    @property
    def stored_as(self) -> str:
        """The form of the base's weights."""
        return stored_form(self.base)

    def dense(self) -> Tensor:
        """The fp32 weight (O, I), the update in it."""
        return self.merged().get_parameter("weight").detach().float()


class Fused(nn.Module):
    """A module with layers in which several maps stand one below the other."""

    def maps(self) -> Mapping[str, tuple[int, ...]]:
        """The rows of each map, by the layer's name in the module."""
        raise NotImplementedError


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of copies of a weight (O, I) and a bias (O)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def plain_embedding(weight: Tensor) -> nn.Embedding:
    """An embedding of a copy of a weight (V, C)."""
    layer = nn.Embedding(weight.shape[0], weight.shape[1], device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    return layer


def takes_update(layer: nn.Module) -> bool:
    """Whether an update may stand beside a layer: a plain linear one, or a ``StandIn`` that carries it."""
    return type(layer) is nn.Linear or (isinstance(layer, StandIn) and layer.carries)


def stored_form(layer: nn.Module) -> str:
    """The form of a layer's weights; ``fp32`` of a plain one."""
    return layer.stored_as if isinstance(layer, StandIn) else "fp32"


def main_form(parts: nn.Module) -> str:
    """The form in which most linear layers of a part of a model are stored, such as its blocks; ``fp32`` of none."""
    layers = [m for m in parts.modules() if type(m) is nn.Linear or isinstance(m, StandIn)]
    forms = Counter(stored_form(layer) for layer in layers)
    return forms.most_common(1)[0][0] if forms else "fp32"


def maps_in(part: nn.Module) -> dict[int, tuple[int, ...]]:
    """The rows of the separate maps in each fused plain weight below ``part``, by the parameter's ``id``."""
    return {
        id(module.get_parameter(f"{name}.weight")): rows
        for module in part.modules()
        if isinstance(module, Fused)
        for name, rows in module.maps().items()
        if type(module.get_submodule(name)) is nn.Linear
    }
