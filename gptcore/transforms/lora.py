"""LoRA: a trained low-rank update beside frozen linear layers.

"LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685: y = W x + (alpha / r) B A x,
with A random and B zero at the start.

Shapes: r rank, I inputs, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.config import Json
from gptcore.errors import CheckpointError, ConfigError
from gptcore.models.network import Network
from gptcore.nn.linear import Adapted, StandIn, plain_linear
from gptcore.nn.surgery import freeze
from gptcore.transforms.adapter import Adapter, PeftPart, adapt

_PLAIN: Final[Json] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
}
"""What every ``adapter_config.json`` says of a plain LoRA."""


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


class LoRALinear(Adapted):
    """A frozen linear layer, plain or of NormalFloat codes (QLoRA), with a low-rank update."""

    def __init__(self, base: nn.Module, *, rank: int, alpha: float, dropout: float) -> None:
        """Wrap ``base``, a layer that ``takes_update``; its weights are frozen."""
        super().__init__()
        n_inputs, n_outputs = cast(int, base.in_features), cast(int, base.out_features)
        self.base = base
        self.scale = alpha / rank
        self.dropout = dropout
        self.lora_a = nn.Parameter(torch.empty(rank, n_inputs))  # (r, I)
        self.lora_b = nn.Parameter(torch.zeros(n_outputs, rank))  # (O, r)
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
        """One plain linear layer that computes the same; the sum is made in fp64."""
        below = self.base.merged() if isinstance(self.base, StandIn) else self.base
        layer = plain_linear(cast(Tensor, below.weight), cast(Tensor | None, below.bias))
        with torch.no_grad():
            update = self.scale * (self.lora_b.double() @ self.lora_a.double())  # (O, I)
            layer.weight.copy_(layer.weight.double() + update)
        return layer


@dataclass(frozen=True)
class LoRA(Adapter):
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
        return adapt(
            model,
            targets=self.targets,
            also_train=self.also_train,
            wrap=lambda layer: LoRALinear(layer, rank=self.rank, alpha=self.alpha, dropout=self.dropout),
        )

    def with_trained_words(self) -> Self:
        """The same that also trains the token embedding."""
        return replace(self, also_train=(*self.also_train, "token_embedding"))

    def to_peft(self) -> Json:
        """A plain LoRA of peft's (its ``tuners/lora/config.py``).

        Raises:
            ConfigError: something is trained whole beside the updates.
        """
        if self.also_train:
            raise ConfigError(
                f"LoRA also trains {', '.join(self.also_train)} whole; an adapter for peft is of linear layers alone. "
                "Export it with --to hf, merged"
            )
        return {**_PLAIN, "r": self.rank, "lora_alpha": self.alpha, "lora_dropout": self.dropout}

    def peft_parts(self, layer: Adapted, rows: Sequence[int]) -> list[dict[str, Tensor]]:
        """The matrices share A, and each has its rows of B."""
        assert isinstance(layer, LoRALinear)
        a, parts = layer.lora_a.detach(), layer.lora_b.detach().split(list(rows))
        return [{"lora_A.weight": a.clone(), "lora_B.weight": part.clone()} for part in parts]

    @classmethod
    def unlike_peft(cls, config: Json) -> str:
        """The first setting that is not that of a plain LoRA."""
        for name, value in _PLAIN.items():
            if config.get(name, value) not in (value, None):
                return f"{name} is {config[name]!r}; only {value!r} can be imported"
        return ""

    @classmethod
    def from_peft(
        cls, config: Json, layers: Mapping[str, Sequence[PeftPart]], *, place: Path
    ) -> tuple[Self, dict[str, dict[str, Tensor]]]:
        """The update with the rank of the layer that needs the most; where A is not shared, the pairs are stacked.

        Raises:
            CheckpointError: a number in the settings or a shape cannot be.
        """
        rank, alpha, dropout = (config.get(name) for name in ("r", "lora_alpha", "lora_dropout"))
        numbers = isinstance(alpha, int | float) and isinstance(dropout, int | float)
        if not isinstance(rank, int) or rank < 1 or not numbers:
            raise CheckpointError(f"{place}: r, lora_alpha and lora_dropout are {rank!r}, {alpha!r} and {dropout!r}")
        pairs = {name: _stacked(parts, where=f"{place}: {name}") for name, parts in layers.items()}
        widest = max(len(a) for a, _ in pairs.values())
        update = cls(
            rank=widest,
            alpha=float(cast(float, alpha)) / rank * widest,
            dropout=float(cast(float, dropout)),
            targets=tuple(dict.fromkeys(name.rpartition(".")[2] for name in pairs)),
        )
        return update, {
            name: {"lora_a": F.pad(a, (0, 0, 0, widest - len(a))), "lora_b": F.pad(b, (0, widest - len(a)))}
            for name, (a, b) in pairs.items()
        }


def _stacked(parts: Sequence[PeftPart], *, where: str) -> tuple[Tensor, Tensor]:
    """One pair (r, I) and (O, r) of the pairs of several matrices; those that are not adapted have rows of zeros."""
    n_outputs, first = sum(part.n_rows for part in parts), 0
    a_parts, b_parts = [], []
    for part in parts:
        if part.tensors:
            a, b = (part.tensors.get(f"lora_{side}.weight") for side in "AB")
            if a is None or b is None or a.dim() != 2 or b.shape != (part.n_rows, len(a)) or len(part.tensors) > 2:
                shapes = {name: tuple(tensor.shape) for name, tensor in part.tensors.items()}
                raise CheckpointError(f"{where} has {shapes}; expected lora_A.weight (r, I) and lora_B.weight (O, r)")
            a_parts.append(a.float())
            b_parts.append(F.pad(b.float(), (0, 0, first, n_outputs - first - part.n_rows)))
        first += part.n_rows
    if len(a_parts) == len(parts) and all(torch.equal(a, a_parts[0]) for a in a_parts):
        return a_parts[0], sum(b_parts[1:], b_parts[0])
    widths = {a.shape[1] for a in a_parts}
    if len(widths) > 1:
        raise CheckpointError(f"{where} has pairs for {sorted(widths)} inputs; expected the same for all")
    return torch.cat(a_parts), torch.cat(b_parts, 1)
