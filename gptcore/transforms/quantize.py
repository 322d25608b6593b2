"""Weight-only quantization: int8 per output channel, int4 by group.

What is stored is canonical and independent of the machine: integer codes and fp32 scales; int4 codes are packed two to
a byte, low nibble first. int8 is symmetric per row, as in "LLM.int8()", https://arxiv.org/abs/2208.07339, section 2;
int4 is round-to-nearest with a scale and a minimum per group of inputs (ZeroQuant, https://arxiv.org/abs/2206.01861).

Shapes: O outputs (rows), I inputs, G group size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.models.network import Network
from gptcore.nn.linear import StandIn, plain_embedding, plain_linear
from gptcore.nn.nibbles import packed_nibbles, unpacked_nibbles
from gptcore.nn.surgery import merge_adapters
from gptcore.transforms.base import Transform
from gptcore.transforms.storing import store


class QuantizedMatrix(nn.Module):
    """An (O, I) matrix as integer codes and scales."""

    codes: Tensor
    """int8 (O, I) at 8 bits; uint8 (O, I / 2) at 4 bits, two codes a byte."""
    scales: Tensor
    """fp32 (O, 1) at 8 bits; (O, I / G) at 4 bits."""
    minimums: Tensor
    """fp32 (O, I / G): the value of code 0, at 4 bits only (empty at 8)."""

    def __init__(self, weight: Tensor, *, bits: int, group_size: int) -> None:
        """Quantize ``weight`` (O, I) fp32.

        Raises:
            ConfigError: a weight is not finite, or at 4 bits the inputs are not a multiple of the group size.
        """
        super().__init__()
        if not bool(torch.isfinite(weight).all()):
            raise ConfigError("a weight is NaN or infinite; a diverged model cannot be quantized")
        self.bits, self.group_size = bits, group_size
        codes, scales, minimums = _int8(weight) if bits == 8 else _int4(weight, group_size)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("minimums", minimums)

    @property
    def form(self) -> str:
        """``int8`` or ``int4``."""
        return f"int{self.bits}"

    @property
    def n_weights(self) -> int:
        """Weights that the codes stand for."""
        return self.codes.numel() * (1 if self.bits == 8 else 2)

    def dense(self, rows: Tensor | None = None) -> Tensor:
        """The fp32 matrix (O, I), or only the given rows (int64 of any shape) of it."""
        codes = self.codes if rows is None else self.codes[rows]
        scales = self.scales if rows is None else self.scales[rows]
        if self.bits == 8:
            return codes.to(scales.dtype) * scales
        minimums = self.minimums if rows is None else self.minimums[rows]
        grouped = unpacked_nibbles(codes).unflatten(-1, (-1, self.group_size)).to(scales.dtype)
        dense: Tensor = (grouped * scales.unsqueeze(-1) + minimums.unsqueeze(-1)).flatten(-2)
        return dense


def _int8(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scales = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127.0  # (O, 1)
    codes = (weight / scales).round().clamp(-127, 127).to(torch.int8)
    return codes, scales, weight.new_empty(0)


def _int4(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    n_outputs, n_inputs = weight.shape
    if n_inputs % group_size or group_size % 2:
        raise ConfigError(f"{n_inputs} inputs cannot be cut into groups of {group_size}; choose an even divisor")
    groups = weight.view(n_outputs, n_inputs // group_size, group_size)
    minimums = groups.amin(dim=-1)  # (O, I / G)
    scales = (groups.amax(dim=-1) - minimums).clamp(min=1e-12) / 15.0
    codes = ((groups - minimums.unsqueeze(-1)) / scales.unsqueeze(-1)).round().clamp(0, 15).to(torch.uint8)
    return packed_nibbles(codes.flatten(1)), scales, minimums


class QuantizedLinear(StandIn):
    """y = x dense(W)^T + b, the weights dequantized at each call."""

    def __init__(self, matrix: QuantizedMatrix, bias: Tensor | None, *, narrow: bool = False) -> None:
        """Hold the quantized matrix and an fp32 bias; ``narrow``: activations are rounded as by ``narrowed``."""
        super().__init__()
        self.matrix, self.narrow = matrix, narrow
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @property
    def stored_as(self) -> str:
        """``int8`` or ``int4``."""
        return self.matrix.form

    def dense(self) -> Tensor:
        """(O, I) fp32, made of the codes at each call."""
        return self.matrix.dense()

    def merged(self) -> nn.Linear:
        """A plain linear layer of the numbers that the codes mean.

        Raises:
            ConfigError: it rounds its inputs as well, which no plain layer does.
        """
        if self.narrow:
            raise ConfigError("the layer rounds its inputs to 16 bits, which no plain layer does")
        return plain_linear(self.dense(), self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., I) to (..., O)."""
        return F.linear(narrowed(x) if self.narrow else x, self.matrix.dense(), self.bias)


def narrowed(x: Tensor) -> Tensor:
    """The rows of x (..., I) fp32 rounded to whole steps, as many as exact int32 sums with int8 weights leave room for.

    At most 32,767 steps to each side of 0, and 5,504 where I is 3,072. The kernels multiply the int16 steps themselves
    (``gptcore/kernels/matrix.h``); this gives the same numbers as fp32.
    """
    n_steps = min(32_767, torch.iinfo(torch.int32).max // (127 * x.shape[-1]))
    step = x.abs().amax(dim=-1, keepdim=True) / n_steps
    return (x / step.clamp(min=torch.finfo(x.dtype).tiny)).round() * step


class QuantizedEmbedding(StandIn):
    """An embedding that dequantizes only the rows it is asked for."""

    def __init__(self, matrix: QuantizedMatrix) -> None:
        """Hold the quantized matrix, (V, C)."""
        super().__init__()
        self.matrix = matrix

    @property
    def stored_as(self) -> str:
        """``int8`` or ``int4``."""
        return self.matrix.form

    def dense(self) -> Tensor:
        """(V, C) fp32."""
        return self.matrix.dense()

    def merged(self) -> nn.Embedding:
        """A plain embedding of the numbers that the codes mean."""
        return plain_embedding(self.dense())

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 ids (...) to (..., C)."""
        return self.matrix.dense(tokens)


@dataclass(frozen=True)
class Quantize(Transform):
    """Quantize the linear layers of every stack, the token embedding and a head tied to it; all else stays fp32."""

    bits: Literal[4, 8] = 8
    """Bits per weight: 8 symmetric per output channel, or 4 by group."""
    group_size: int = 32
    """Inputs that share a scale and a minimum at 4 bits."""
    embedding_bits: Literal[4, 8] = 8
    """Bits of the token embedding and a head tied to it: rare words suffer most at 4."""
    activation_bits: Literal[16, 32] = 32
    """Bits of what goes into a product: fp32, or at 8 bits a weight int16, with a scale for each row at each call."""

    def __post_init__(self) -> None:
        """Refuse what the kernels have no product for."""
        if self.activation_bits == 16 and self.bits != 8:
            raise ConfigError(f"activation_bits is 16, which goes with 8 bits a weight only, and bits is {self.bits}")

    def apply(self, model: Network) -> Network:
        """Merge any update, then replace the layers.

        Raises:
            ConfigError: a layer is not plain, a weight is not finite, or the groups do not divide the inputs.
        """
        merge_adapters(model)
        narrow = self.activation_bits == 16 and self.embedding_bits == 8

        def table(weight: Tensor) -> tuple[nn.Module, nn.Module]:
            rows = QuantizedMatrix(weight, bits=self.embedding_bits, group_size=self.group_size)
            return QuantizedEmbedding(rows), QuantizedLinear(rows, None, narrow=narrow)

        return store(model, linear=self._linear, table=table)

    def _linear(self, layer: nn.Linear) -> QuantizedLinear:
        matrix = QuantizedMatrix(layer.weight.detach(), bits=self.bits, group_size=self.group_size)
        return QuantizedLinear(matrix, layer.bias, narrow=self.activation_bits == 16)
