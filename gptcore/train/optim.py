"""AdamW, what all optimizers share, and their state on its way to a checkpoint.

Decay only where it helps: matrices decay, biases and norms do not. The fused kernel is used: on a CPU the default one
takes four times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gptcore.config import Config
from gptcore.errors import CheckpointError, ConfigError
from gptcore.models.network import Network
from gptcore.train.eager import AdamW

LR_SCALE = "lr_scale"
"""Key of a parameter group whose rate is not the run's own, but so many times it."""


@dataclass(frozen=True)
class OptimizerConfig(Config):
    """Settings of AdamW; the base of the other optimizers, which use it for what they do not treat themselves."""

    lr: float = 6e-4
    """Peak learning rate."""
    weight_decay: float = 0.1
    """Decoupled decay of parameters with two or more dimensions."""
    beta_1: float = 0.9
    """Decay of the gradient's running mean."""
    beta_2: float = 0.95
    """Decay of the squared gradient's running mean."""

    def __post_init__(self) -> None:
        """Refuse a rate that cannot be."""
        if not self.lr > 0:
            raise ConfigError(f"expected lr to be above 0, got {self.lr}")

    def build(self, model: Network) -> torch.optim.Optimizer:
        """An optimizer of the trained parameters.

        Raises:
            ConfigError: every parameter is frozen.
        """
        return self.adamw(trainable_parameters(model))

    def adamw(self, parameters: Sequence[nn.Parameter]) -> torch.optim.AdamW:
        """AdamW over at least one parameter, in two groups."""
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        filled = [group for group in groups if group["params"]]
        return AdamW(filled, lr=self.lr, betas=(self.beta_1, self.beta_2), fused=True)


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen.

    Raises:
        ConfigError: every one is.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ConfigError("every parameter is frozen; nothing would be trained")
    return trained


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the rate of the current step, times its own ``LR_SCALE`` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(LR_SCALE, 1.0)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: ``<parameter>/<moment>``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put named tensors back.

    Raises:
        CheckpointError: they do not belong to the parameters that are trained now.
    """
    named: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        named.setdefault(parameter_name, {})[key] = tensor
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if named and named.keys() != trained.keys():
        other = sorted(named.keys() ^ trained.keys())
        raise CheckpointError(f"the saved optimizer state belongs to other parameters, for example {other[0]}")
    for parameter_name, state in named.items():
        restored: dict[str, Any] = dict(state)
        optimizer.state[trained[parameter_name]] = restored
