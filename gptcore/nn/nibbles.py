"""Codes of four bits, two to a byte, low nibble first: the layout on disk, the same on every machine."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_nibbles(codes: Tensor) -> Tensor:
    """(..., I) uint8 codes below 16, I even, to (..., I / 2) uint8."""
    pairs = codes.unflatten(-1, (-1, 2))
    packed: Tensor = pairs[..., 0] | (pairs[..., 1] << 4)
    return packed


def unpack_nibbles(packed: Tensor) -> Tensor:
    """(..., I / 2) uint8 to (..., I) uint8 codes below 16."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
