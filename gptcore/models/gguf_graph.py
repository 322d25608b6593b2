"""What families' graphs of GGUF files are made of.

A graph (``GGUFForm.graph``) is written after llama.cpp's and not after our models: neither names, layouts nor layers
are shared, so that a matrix which was transposed, permuted or left out cannot go unnoticed. Hence these few functions,
too, are used by graphs alone.

Shapes: T positions, H heads, D head width.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class GGUFNumbers(Protocol):
    """What a graph reads of a file; a CheckpointError where it is not there."""

    def number(self, name: str) -> float:
        """A numeric field."""
        ...

    def dense(self, name: str) -> NDArray[np.float32]:
        """A tensor in fp32."""
        ...


def file_tensor(file: GGUFNumbers, name: str) -> Tensor:
    """A tensor in fp32.

    Raises:
        CheckpointError: there is none of that name.
    """
    return torch.from_numpy(file.dense(name))


def by_head(x: Tensor, n_heads: int) -> Tensor:
    """(T, H * D) to (H, T, D)."""
    by_head: Tensor = x.unflatten(-1, (n_heads, -1)).transpose(0, 1)
    return by_head


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention: (H, T, D) each to (T, H * D)."""
    scores = queries @ keys.transpose(1, 2) / math.sqrt(queries.shape[-1])  # (H, T, T)
    later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)
    return (weights @ values).transpose(0, 1).flatten(1)
