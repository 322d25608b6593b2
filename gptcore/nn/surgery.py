"""Change a built model in place: replace layers, freeze, count. The verbs that LoRA, quantization and heads share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar, cast

from torch import nn

from gptcore.errors import ConfigError
from gptcore.nn.linear import Adapted

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class ParameterCount(NamedTuple):
    """Numbers of weights, shared ones counted once; those that are stored as codes count as what they stand for."""

    total: int
    trainable: int


def named_linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The plain linear layers with their dotted names."""
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            yield name, module


def replace_modules(
    model: nn.Module, chosen: Callable[[str, nn.Module], bool], build: Callable[[nn.Module], nn.Module]
) -> list[str]:
    """Put ``build(module)`` in the place of each module that ``chosen(name, module)`` accepts.

    Returns:
        The dotted names of what was replaced.

    Raises:
        ConfigError: nothing was chosen.
    """
    names = [name for name, module in model.named_modules() if name and chosen(name, module)]
    if not names:
        kinds = sorted({name.rpartition(".")[2] for name, _ in named_linears(model)})
        raise ConfigError(f"no layer was chosen; the linear layers here are named {', '.join(kinds)}")
    for name in names:
        parent_name, _, leaf = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, leaf, build(getattr(parent, leaf)))
    return names


def merge_adapters(model: AnyModule) -> AnyModule:
    """Fold every trained update into the layer it stands beside, in place; a model without one stays as it is."""
    return _without_adapters(model, lambda layer: layer.merged())


def strip_adapters(model: AnyModule) -> AnyModule:
    """Take every trained update away, in place: what is left are the frozen layers below."""
    return _without_adapters(model, lambda layer: layer.base)


def _without_adapters(model: AnyModule, build: Callable[[Adapted], nn.Module]) -> AnyModule:
    if any(isinstance(module, Adapted) for module in model.modules()):
        replace_modules(
            model, lambda _, module: isinstance(module, Adapted), lambda module: build(cast(Adapted, module))
        )
    return model


def freeze(module: nn.Module, *, frozen: bool = True) -> None:
    """Stop (or resume) training of all parameters below ``module``."""
    for parameter in module.parameters():
        parameter.requires_grad_(not frozen)


def count_parameters(model: nn.Module) -> ParameterCount:
    """Parameters in all and those that are trained."""
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return ParameterCount(total=sum(p.numel() for p in parameters) + n_coded(model), trainable=trainable)


def n_coded(model: nn.Module) -> int:
    """Weights that are stored as codes: the sum of the ``n_weights`` that modules of quantized matrices tell."""
    return sum(getattr(module, "n_weights", 0) for module in model.modules())
