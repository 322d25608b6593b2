"""A token embedding whose weights are also the head's, with one gradient for both.

Autograd would make a whole second matrix of zeros for the few looked-up rows and add it to the head's gradient: for
GPT-2 154 MB at the moment when memory is at its peak. Here the rows are added to the head's gradient itself.

Shapes: V vocabulary, C width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(tokens)
        ctx.shape = weight.shape
        return F.embedding(tokens, weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        rows, weight = grads
        if rows is None:
            return weight, None
        (tokens,) = ctx.saved_tensors
        total = rows.new_zeros(ctx.shape) if weight is None else weight
        return total.index_add_(0, tokens.flatten(), rows.flatten(0, -2).to(total.dtype)), None


def look_up_tied(weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of the tokens, and the weights for the head.

    Args:
        weight: (V, C), shared by embedding and head.
        tokens: (...) int64, each below V.

    Returns:
        (..., C) the rows, and (V, C) the same weights, through which the head's gradient must come back.
    """
    rows, head = _Lookup.apply(weight, tokens)
    return rows, head
