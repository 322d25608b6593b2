"""Rotary positions: queries and keys are turned by angles that grow with their position.

"RoFormer: Enhanced Transformer with Rotary Position Embedding", https://arxiv.org/abs/2104.09864. The two numbers that
are turned together stand half a head apart, as in transformers' Llama (GGUF keeps them side by side).

Shapes: B rows, H heads, T positions, D head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gptcore.nn.mixing import Mix


class Turns(NamedTuple):
    """Cosines and sines of the angles at each position."""

    cosines: Tensor
    """(1 or B, 1, T, D) fp32"""
    sines: Tensor
    """As the cosines, the first half of D negative."""

    @staticmethod
    def at(positions: Tensor, *, head_width: int, base: float) -> Turns:
        """Those of int64 positions (T,) or (B, T); pair i turns by base^(-2i / D) a position."""
        rates = base ** (-torch.arange(0, head_width, 2, device=positions.device).float() / head_width)  # (D / 2,)
        rows = positions if positions.dim() == 2 else positions[None]
        angles = (rows[..., None].float() * rates).unsqueeze(1)  # (1 or B, 1, T, D / 2)
        cosines, sines = angles.cos(), angles.sin()
        return Turns(torch.cat([cosines, cosines], dim=-1), torch.cat([-sines, sines], dim=-1))

    def turn(self, heads: Tensor) -> Tensor:
        """(B, H, T, D) turned; the dtype stays."""
        swapped = torch.roll(heads, heads.shape[-1] // 2, dims=-1)
        return (heads * self.cosines + swapped * self.sines).to(heads.dtype)


def rotary(mix: Mix, turns: Turns) -> Mix:
    """``mix`` over queries and keys that were turned first; a cache keeps them turned."""

    def mix_rotated(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        return mix(turns.turn(queries), turns.turn(keys), values, dropout)

    return mix_rotated
