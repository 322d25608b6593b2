"""Adapters, layers and heads that nobody in the tree knows.

``DoRA`` registers like one of the tree: "DoRA: Weight-Decomposed Low-Rank Adaptation", https://arxiv.org/abs/2402.09353.
``Doubled`` puts a layer into a model that does not say what it stands for. ``Values`` is a head of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.config import Json
from gptcore.errors import CheckpointError
from gptcore.models import Model
from gptcore.nn import Adapted, freeze, replace_modules
from gptcore.nn.linear import plain_linear
from gptcore.transforms import Adapter, Head, PeftPart, Transform, adapt


class DoRALinear(Adapted):
    """The rows of a frozen matrix and its update, each as long as its magnitude says."""

    def __init__(self, base: nn.Module, *, rank: int, alpha: float) -> None:
        super().__init__()
        weight = base.get_parameter("weight")
        self.base, self.scale = base, alpha / rank
        self.lora_a = nn.Parameter(torch.randn(rank, weight.shape[1]) / rank)
        self.lora_b = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.magnitude = nn.Parameter(weight.detach().norm(dim=1))
        freeze(base)

    @property
    def weight(self) -> Tensor:
        """(O, I)."""
        direction = self.base.get_parameter("weight") + self.scale * self.lora_b @ self.lora_a
        return self.magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True).detach()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, cast(Tensor | None, self.base.bias))

    def merged(self) -> nn.Linear:
        return plain_linear(self.weight, cast(Tensor | None, self.base.bias))


@dataclass(frozen=True)
class DoRA(Adapter):
    """A low-rank update of directions, and magnitudes."""

    rank: int = 2
    alpha: float = 4.0
    targets: tuple[str, ...] = ("qkv", "down")

    def apply(self, model: Model) -> Model:
        return adapt(
            model,
            targets=self.targets,
            also_train=(),
            wrap=lambda layer: DoRALinear(layer, rank=self.rank, alpha=self.alpha),
        )

    def to_peft(self) -> Json:
        numbers = {"r": self.rank, "lora_alpha": self.alpha, "lora_dropout": 0.0}
        return {"peft_type": "LORA", "bias": "none", "use_dora": True, **numbers}

    def peft_parts(self, layer: Adapted, rows: Sequence[int]) -> list[dict[str, Tensor]]:
        assert isinstance(layer, DoRALinear)
        columns, lengths = layer.lora_b.detach().split(list(rows)), layer.magnitude.detach().split(list(rows))
        return [
            {"lora_A.weight": layer.lora_a.detach().clone(), "lora_B.weight": b, "lora_magnitude_vector": m}
            for b, m in zip(columns, lengths, strict=True)
        ]

    @classmethod
    def unlike_peft(cls, config: Json) -> str:
        return "" if config.get("use_dora") else "use_dora is not set"

    @classmethod
    def from_peft(
        cls, config: Json, layers: Mapping[str, Sequence[PeftPart]], *, place: Path
    ) -> tuple[Self, dict[str, dict[str, Tensor]]]:
        tensors: dict[str, dict[str, Tensor]] = {}
        for name, parts in layers.items():
            if not all("lora_magnitude_vector" in part.tensors for part in parts):
                raise CheckpointError(f"{place}: {name} has no magnitudes")
            tensors[name] = {
                "lora_a": parts[0].tensors["lora_A.weight"],
                "lora_b": torch.cat([part.tensors["lora_B.weight"] for part in parts]),
                "magnitude": torch.cat([part.tensors["lora_magnitude_vector"] for part in parts]),
            }
        targets = tuple(dict.fromkeys(name.rpartition(".")[2] for name in tensors))
        return cls(rank=config["r"], alpha=config["lora_alpha"], targets=targets), tensors


@dataclass(frozen=True)
class Homeless(DoRA):
    """One that peft has no form for."""

    def to_peft(self) -> Json:
        return Adapter.to_peft(self)

    @classmethod
    def unlike_peft(cls, config: Json) -> str:
        return f"peft_type is {config.get('peft_type')!r}, which is not Homeless"


class Doubling(nn.Module):
    """Twice what a layer gives; says to nobody what it stands for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * cast(Tensor, self.inner(x))


@dataclass(frozen=True)
class Doubled(Transform):
    """Double the outputs of the attention."""

    def apply(self, model: Model) -> Model:
        replace_modules(model, lambda name, _: name.endswith(".out"), Doubling)
        return model


@dataclass(frozen=True)
class Values(Transform):
    """A head of numbers in the place of words."""

    names: tuple[str, ...] = ("length", "score")

    @property
    def head(self) -> Head:
        return "values"

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.names

    def apply(self, model: Model) -> Model:
        model.head = nn.Linear(model.config.width, len(self.names))
        return model
