"""LoRA: a trained low-rank update beside frozen linear layers.

"LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685: y = W x + (alpha / r) B A x,
with A random and B zero at the start.

Shapes: r rank, I inputs, O outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.models.network import Network
from gptcore.nn.nf4 import NF4Linear
from gptcore.nn.surgery import freeze, replace_modules
from gptcore.transforms.base import Transform


class _Update(torch.autograd.Function):
    """y + s (x A^T) B^T, added to y itself: written out, it would be three passes over tensors as wide as y."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        inner = x @ a.T  # (N, r)
        torch.addmm(y, inner, b.T, alpha=scale, out=y)  # torch counts the operations of this, not of addmm_
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, a, b, inner)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, a, b, inner = ctx.saved_tensors
        slope = (grad @ b).mul_(ctx.scale)  # (N, r)
        x_grad = slope @ a if ctx.needs_input_grad[1] else None
        return grad, x_grad, slope.T @ x, (grad.T @ inner).mul_(ctx.scale), None


class LoRALinear(nn.Module):
    """A frozen linear layer, plain or of NormalFloat codes (QLoRA), with a low-rank update."""

    def __init__(self, base: nn.Linear | NF4Linear, *, rank: int, alpha: float, dropout: float) -> None:
        """Wrap ``base``; its weights are frozen."""
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.dropout = dropout
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features))  # (r, I)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))  # (O, r)
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        freeze(base)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., I) to (..., O)."""
        rows = x.reshape(-1, x.shape[-1])
        y: Tensor = self.base(rows)
        dropped = F.dropout(rows, self.dropout, self.training).to(y.dtype)
        updated: Tensor = _Update.apply(y, dropped, self.lora_a.to(y.dtype), self.lora_b.to(y.dtype), self.scale)
        return updated.view(*x.shape[:-1], -1)

    def merged(self) -> nn.Linear:
        """One plain linear layer that computes the same; the sum is made in fp32 at least."""
        base = self.base
        update = self.scale * (self.lora_b.double() @ self.lora_a.double())  # (O, I)
        layer = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None)
        weight = base.weight
        layer.weight = nn.Parameter((weight.double() + update).to(weight.dtype))
        if base.bias is not None:
            layer.bias = nn.Parameter(base.bias.detach().clone())
        return layer


@dataclass(frozen=True)
class LoRA(Transform):
    """Freeze the model and give the named linear layers a low-rank update."""

    rank: int = 8
    """Rank r of the update."""
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout probability on the update's input."""
    targets: tuple[str, ...] = ("qkv", "out", "up", "down")
    """Last names of the linear layers in each block that are adapted."""
    also_train: tuple[str, ...] = ()
    """Dotted names of modules that are trained in full beside the updates, for example a new classification head."""

    def __post_init__(self) -> None:
        """Refuse a rank or dropout that cannot be."""
        if self.rank < 1:
            raise ConfigError(f"rank is {self.rank}; it must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout is {self.dropout}; it must be at least 0 and below 1")

    def apply(self, model: Network) -> Network:
        """Wrap the targets.

        Raises:
            ConfigError: no layer has a target's name, or a module of ``also_train`` does not exist.
        """
        freeze(model)
        for target in self.targets:
            replace_modules(
                model,
                lambda name, module, target=target: (  # type: ignore[misc]
                    type(module) in (nn.Linear, NF4Linear)
                    and name.rpartition(".")[2] == target
                    and name.startswith("blocks.")
                ),
                lambda module: LoRALinear(
                    cast(nn.Linear | NF4Linear, module), rank=self.rank, alpha=self.alpha, dropout=self.dropout
                ),
            )
        for name in self.also_train:
            try:
                module = model.get_submodule(name)
            except AttributeError as error:
                raise ConfigError(f"also_train names {name!r}, which is no module of the model") from error
            if not list(module.parameters()):
                raise ConfigError(
                    f"also_train names {name!r}, whose weights are quantized; only fp32 weights can be trained"
                )
            freeze(module, frozen=False)
        return model


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trained tensors alone, by name: the updates and what ``also_train`` named."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def merge_lora(model: Network) -> Network:
    """Fold every low-rank update into its base layer, in place; a model without updates stays as it is."""
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        replace_modules(
            model,
            lambda _, module: isinstance(module, LoRALinear),
            lambda module: cast(LoRALinear, module).merged(),
        )
    return model
