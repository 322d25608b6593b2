"""The feed-forward layer of Llama: SwiGLU.

"GLU Variants Improve Transformer", https://arxiv.org/abs/2002.05202.

Shapes: B rows, T positions, C width, F hidden width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.nn.block import FeedForward
from gptcore.nn.recompute import through


class GatedFeedForward(FeedForward):
    """down(silu(gate(x)) * up(x)), gate and up in one matrix (the gate first), no biases."""

    def __init__(self, *, width: int, hidden_width: int, dropout: float = 0.0) -> None:
        """Build the layers."""
        nn.Module.__init__(self)
        self.dropout = dropout
        self.lean = True
        self.up = nn.Linear(width, 2 * hidden_width, bias=False)
        self.down = nn.Linear(hidden_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        y = through(self.down, _swiglu, self.up(x), lean=self.lean)
        return F.dropout(y, self.dropout, self.training)


def _swiglu(x: Tensor) -> Tensor:
    """(B, T, 2 F) to (B, T, F)."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up
