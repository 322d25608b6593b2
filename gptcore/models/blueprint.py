"""What a configuration builds, without its numbers: the measure of what is a plain layer of a model."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gptcore.errors import ConfigError
from gptcore.models.network import Network, NetworkConfig
from gptcore.nn.linear import StandIn


class Undrawn(TorchFunctionMode):
    """Weights are not drawn while it is entered; on the meta device that would take torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Leave out torch's three initialisations."""
        del types
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def blueprint(config: NetworkConfig) -> Network:
    """The model of a configuration on the meta device."""
    with Undrawn(), torch.device("meta"):
        return config.build()


def strangers(model: Network) -> Iterator[tuple[str, nn.Module]]:
    """The modules of another kind than ``model.config`` builds in their place, by dotted name; not what is in them.

    A head may be a linear layer whatever is built: transforms put one of their own there.
    """
    built = {name: type(module) for name, module in blueprint(model.config).named_modules()}
    above = ""
    for name, module in model.named_modules():
        if above and name.startswith(above):
            continue
        if type(module) is not built.get(name) and not (name == "head" and type(module) is nn.Linear):
            above = f"{name}."
            yield name, module


def require_known(model: Network, *, what: str) -> None:
    """Insist that every layer is plain or a ``StandIn``.

    Args:
        model: any model.
        what: is going to be done with it, for the message.

    Raises:
        ConfigError: a layer is of a kind that nobody knows; it is named.
    """
    for name, module in strangers(model):
        if not isinstance(module, StandIn):
            raise _unknown(name, module, model, what)


def require_plain(model: Network, *, what: str, within: Collection[nn.Module] | None = None) -> None:
    """Insist that a model has no other layers than its configuration builds.

    Args:
        model: any updates beside its layers are merged.
        what: is going to be done with it, for the message.
        within: only these modules are looked at; all of them, if None.

    Raises:
        ConfigError: a layer is stored in codes, or of a kind that nobody knows; it is named.
    """
    for name, module in strangers(model):
        if within is not None and module not in within:
            continue
        if isinstance(module, StandIn):
            raise ConfigError(
                f"{name} is stored as {module.stored_as}, so {what} is not possible: the model is quantized; take "
                "the fp32 checkpoint it was made from"
            )
        raise _unknown(name, module, model, what)


def _unknown(name: str, module: nn.Module, model: Network, what: str) -> ConfigError:
    return ConfigError(
        f"{name or 'the model'} is a {type(module).__name__}, which a {type(model.config).__name__} does not build, so "
        f"{what} could not keep what it computes; expected plain layers, or one that derives from gptcore.nn.StandIn"
    )
