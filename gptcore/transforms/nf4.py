"""NF4: the blocks' linear layers in NormalFloat codes, for storage and as the frozen base of LoRA (QLoRA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.models.network import Network
from gptcore.nn.nf4 import NF4Embedding, NF4Linear, NF4Matrix
from gptcore.nn.surgery import freeze, replace_modules
from gptcore.transforms.base import Transform
from gptcore.transforms.lora import merge_lora
from gptcore.transforms.quantize import QuantizedEmbedding, QuantizedLinear, QuantizedMatrix


@dataclass(frozen=True)
class NF4(Transform):
    """Quantize the blocks' linear layers to NormalFloat, and the token embedding with a head tied to it as told.

    "QLoRA", https://arxiv.org/abs/2305.14314. On a processor it saves memory and not time.
    """

    block_size: int = 64
    """Inputs that share a scale."""
    embedding: Literal["int8", "nf4", "fp32"] = "int8"
    """Form of the token embedding and of a head tied to it: rare words suffer most at 4 bits; what LoRA's
    ``also_train`` names must stay ``fp32``."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.block_size < 2 or self.block_size % 2:
            raise ConfigError(f"block_size is {self.block_size}; it must be even and at least 2")

    def apply(self, model: Network) -> Network:
        """Merge any LoRA update, replace the layers and freeze what is left.

        Raises:
            ConfigError: a weight is not finite, or the inputs of a layer are not a multiple of the block size.
        """
        merge_lora(model)
        replace_modules(
            model,
            lambda name, module: type(module) is nn.Linear and name.startswith("blocks."),
            lambda module: self._linear(cast(nn.Linear, module)),
        )
        embedding, head = model.get_submodule("token_embedding"), model.head
        assert isinstance(embedding, nn.Embedding)
        tied = isinstance(head, nn.Linear) and head.weight is embedding.weight
        if self.embedding != "fp32":
            table, shared = self._table(embedding.weight.detach())
            model.register_module("token_embedding", table)
            if tied:
                model.head = shared
        freeze(model)
        return model

    def _linear(self, layer: nn.Linear) -> NF4Linear:
        return NF4Linear(NF4Matrix(layer.weight.detach(), block_size=self.block_size), layer.bias)

    def _table(self, weight: Tensor) -> tuple[nn.Module, nn.Module]:
        """The embedding, and a head on the same matrix."""
        if self.embedding == "int8":
            rows = QuantizedMatrix(weight, bits=8, group_size=self.block_size)
            return QuantizedEmbedding(rows), QuantizedLinear(rows, None)
        matrix = NF4Matrix(weight, block_size=self.block_size)
        return NF4Embedding(matrix), NF4Linear(matrix, None)
