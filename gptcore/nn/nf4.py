"""NormalFloat: weights as one of 16 values that are equally likely for normally distributed numbers.

"QLoRA: Efficient Finetuning of Quantized LLMs", https://arxiv.org/abs/2305.14314, section 3 and appendix E: codes of
four bits, one scale per block of inputs (the largest absolute weight), and the scales quantized once more, 256 at once.
The paper has 8-bit floats for the second step; here they are 8-bit codes between the smallest and the largest scale of
each 256. All arithmetic is elementwise, minimum or maximum, so the same weights give the same bytes on every machine.

Shapes: O outputs (rows), I inputs, G block size, S = O * I / G scales.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.nn.linear import StandIn, plain_embedding, plain_linear
from gptcore.nn.nibbles import packed_nibbles, unpacked_nibbles

CODES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The paper's values (appendix E), by code."""
FORM = "nf4"
"""What a ``StandIn`` of these codes says that it is stored as."""
SCALES_AT_ONCE = 256
"""Scales that share a second scale, as in the paper."""


class NF4Matrix(nn.Module):
    """An (O, I) matrix as NormalFloat codes and twice quantized scales."""

    codes: Tensor
    """uint8 (O, I / 2): two codes a byte, low nibble first."""
    scale_codes: Tensor
    """uint8 (O, I / G)."""
    scale_steps: Tensor
    """fp32 (ceil(S / 256), 2): of each 256 scales in row order the smallest, and the step from one code to the next."""

    def __init__(self, weight: Tensor, *, block_size: int) -> None:
        """Quantize ``weight`` (O, I).

        Raises:
            ConfigError: a weight is not finite, or the inputs are not a multiple of the block size.
        """
        super().__init__()
        n_outputs, n_inputs = weight.shape
        if not bool(torch.isfinite(weight).all()):
            raise ConfigError("a weight is NaN or infinite; a diverged model cannot be quantized")
        if n_inputs % block_size or block_size % 2:
            raise ConfigError(f"{n_inputs} inputs cannot be cut into blocks of {block_size}; choose an even divisor")
        self.block_size = block_size
        blocks = weight.detach().float().view(n_outputs, -1, block_size)
        scale_codes, scale_steps = _scales(blocks.abs().amax(dim=-1))
        self.register_buffer("scale_codes", scale_codes)
        self.register_buffer("scale_steps", scale_steps)
        scaled = blocks / self._scales_of(torch.arange(n_outputs)).clamp(min=1e-30).unsqueeze(-1)
        values = torch.tensor(CODES)
        nearest = torch.bucketize(scaled.flatten(1), (values[1:] + values[:-1]) / 2)  # (O, I)
        self.register_buffer("codes", packed_nibbles(nearest.to(torch.uint8)))

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self.codes.shape[0], 2 * self.codes.shape[1]

    @property
    def n_weights(self) -> int:
        """Weights that the codes stand for."""
        return 2 * self.codes.numel()

    def dense(self, rows: Tensor | None = None) -> Tensor:
        """The fp32 matrix (O, I), or only the given rows (int64 of any shape) of it."""
        chosen = torch.arange(len(self.codes), device=self.codes.device) if rows is None else rows
        values = torch.tensor(CODES, device=self.codes.device)
        looked_up = values[unpacked_nibbles(self.codes[chosen]).int()]  # (..., I)
        grouped = looked_up.unflatten(-1, (-1, self.block_size))
        dense: Tensor = (grouped * self._scales_of(chosen).unsqueeze(-1)).flatten(-2)
        return dense

    def _scales_of(self, rows: Tensor) -> Tensor:
        """fp32 (..., I / G): the scales of the rows (...)."""
        n = self.scale_codes.shape[1]
        places = (rows.unsqueeze(-1) * n + torch.arange(n, device=rows.device)) // SCALES_AT_ONCE
        smallest, step = self.scale_steps[places].unbind(-1)
        return self.scale_codes[rows].float() * step + smallest


def _scales(largest: Tensor) -> tuple[Tensor, Tensor]:
    """Codes uint8 (O, I / G) of the scales, and fp32 (ceil(S / 256), 2) what they mean."""
    flat = largest.flatten()
    missing = -len(flat) % SCALES_AT_ONCE
    parts = torch.cat([flat, flat[-1:].expand(missing)]).view(-1, SCALES_AT_ONCE)
    smallest = parts.amin(dim=1, keepdim=True)
    step = (parts.amax(dim=1, keepdim=True) - smallest) / 255.0
    codes = ((parts - smallest) / step.clamp(min=1e-30)).round().clamp(0, 255).to(torch.uint8)
    return codes.flatten()[: len(flat)].view_as(largest), torch.cat([smallest, step], dim=1)


class _Product(torch.autograd.Function):
    """x W^T + b that keeps the codes for the backward pass, not the dense weights: what makes QLoRA small."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: NF4Matrix, bias: Tensor | None) -> Tensor:
        ctx.matrix = matrix
        dense = matrix.dense().to(x.dtype)
        return F.linear(x, dense, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        return grad @ ctx.matrix.dense().to(grad.dtype), None, None


class NF4Linear(StandIn):
    """A frozen linear layer, y = x dense(W)^T + b; a gradient flows through it to its input."""

    carries = True
    stored_as = FORM

    def __init__(self, matrix: NF4Matrix, bias: Tensor | None) -> None:
        """Hold the matrix and an fp32 bias."""
        super().__init__()
        self.matrix = matrix
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.out_features, self.in_features = matrix.shape

    def dense(self) -> Tensor:
        """(O, I) fp32, made of the codes at each call."""
        return self.matrix.dense()

    def merged(self) -> nn.Linear:
        """A plain linear layer of the numbers that the codes mean."""
        return plain_linear(self.dense(), self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., I) to (..., O)."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        y: Tensor = _Product.apply(x, self.matrix, self.bias)
        return y


class NF4Embedding(StandIn):
    """An embedding that makes only the rows it is asked for."""

    stored_as = FORM

    def __init__(self, matrix: NF4Matrix) -> None:
        """Hold the matrix, (V, C)."""
        super().__init__()
        self.matrix = matrix

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 ids (...) to (..., C)."""
        return self.matrix.dense(tokens)

    def dense(self) -> Tensor:
        """(V, C) fp32."""
        return self.matrix.dense()

    def merged(self) -> nn.Embedding:
        """A plain embedding of the numbers that the codes mean."""
        return plain_embedding(self.dense())
