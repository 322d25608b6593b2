"""NF4: the blocks' linear layers in NormalFloat codes, for storage and as the frozen base of LoRA (QLoRA)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.models.network import Network
from gptcore.nn.nf4 import NF4Embedding, NF4Linear, NF4Matrix
from gptcore.nn.surgery import merge_adapters
from gptcore.transforms.base import Transform
from gptcore.transforms.quantize import QuantizedEmbedding, QuantizedLinear, QuantizedMatrix
from gptcore.transforms.storing import store


@dataclass(frozen=True)
class NF4(Transform):
    """Quantize the linear layers of every stack to NormalFloat, and the token embedding with a head tied to it as told.

    "QLoRA", https://arxiv.org/abs/2305.14314. On a processor it saves memory and not time.
    """

    merges_away = True

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
        """Merge any update, replace the layers and freeze what is left.

        Raises:
            ConfigError: a layer is not plain, a weight is not finite, or the block size does not divide the inputs.
        """
        merge_adapters(model)
        return store(model, linear=self._linear, table=None if self.embedding == "fp32" else self._table)

    def with_trained_words(self) -> Self:
        """The same with a token embedding in fp32."""
        return replace(self, embedding="fp32")

    def _linear(self, layer: nn.Linear) -> NF4Linear:
        return NF4Linear(NF4Matrix(layer.weight.detach(), block_size=self.block_size), layer.bias)

    def _table(self, weight: Tensor) -> tuple[nn.Module, nn.Module]:
        """The embedding, and a head on the same matrix."""
        if self.embedding == "int8":
            rows = QuantizedMatrix(weight, bits=8, group_size=self.block_size)
            return QuantizedEmbedding(rows), QuantizedLinear(rows, None)
        matrix = NF4Matrix(weight, block_size=self.block_size)
        return NF4Embedding(matrix), NF4Linear(matrix, None)
