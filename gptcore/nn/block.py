"""The pre-norm transformer block of GPT-2 and its feed-forward layer.

"Language Models are Unsupervised Multitask Learners" (GPT-2), section 2.3: layer normalisation before each sub-block.
GELU in its tanh form: https://arxiv.org/abs/1606.08415.

Shapes: B rows, T positions, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptcore.nn.attention import CausalSelfAttention
from gptcore.nn.mixing import Mix, causal
from gptcore.nn.recompute import through


class FeedForward(nn.Module):
    """Two linear layers around tanh-GELU, four times as wide inside unless set otherwise."""

    def __init__(self, *, width: int, hidden_width: int | None = None, dropout: float = 0.0) -> None:
        """Build the layers."""
        super().__init__()
        self.dropout = dropout
        self.lean = True
        hidden = hidden_width or 4 * width
        self.up: nn.Module = nn.Linear(width, hidden)
        self.down: nn.Module = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        y = through(self.down, _gelu, self.up(x), lean=self.lean)
        return F.dropout(y, self.dropout, self.training)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x))."""

    norm_1: nn.Module
    norm_2: nn.Module
    feedforward: FeedForward

    def __init__(
        self,
        *,
        width: int,
        n_heads: int,
        head_width: int | None = None,
        hidden_width: int | None = None,
        dropout: float = 0.0,
        qkv_bias: bool = True,
    ) -> None:
        """Build both sub-blocks."""
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(
            width=width, n_heads=n_heads, head_width=head_width, dropout=dropout, qkv_bias=qkv_bias
        )
        self.norm_2 = nn.LayerNorm(width)
        self.feedforward = FeedForward(width=width, hidden_width=hidden_width, dropout=dropout)
        self.checkpointed = False

    def checkpoint(self) -> None:
        """From now on keep nothing but the input for the backward pass, and compute the rest again there.

        "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174.
        """
        self.checkpointed, self.feedforward.lean = True, False

    def forward(self, x: Tensor, *, mix: Mix = causal) -> Tensor:
        """Map (B, T, C) to (B, T, C); ``mix`` says which positions see which."""
        attention = partial(self.attention, mix=mix)
        if self.checkpointed and torch.is_grad_enabled():
            y: Tensor = checkpoint(self._map, x, attention, use_reentrant=False)
            return y
        return self._map(x, attention)

    def _map(self, x: Tensor, attention: Callable[[Tensor], Tensor]) -> Tensor:
        lean = not self.checkpointed
        x = x + through(attention, self.norm_1, x, lean=lean)
        return x + through(self.feedforward, self.norm_2, x, lean=lean)

    def at(self, x: Tensor, positions: Tensor, *, lengths: Sequence[int] | None = None) -> Tensor:
        """What ``forward`` gives at one position of each row: (B, 1, C); arguments as of ``CausalSelfAttention.at``."""
        rows = torch.arange(len(x), device=x.device) if lengths is None else 0
        chosen = x[rows, positions].unsqueeze(1) + self.attention.at(self.norm_1(x), positions, lengths=lengths)
        y: Tensor = chosen + self.feedforward(self.norm_2(chosen))
        return y
