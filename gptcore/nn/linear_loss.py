"""Cross-entropy of a linear head without ever holding all logits.

The logits (N rows by V words) are the largest tensor of a small language model. Here they are made, turned into the
loss and into their own gradient, and dropped, one chunk of rows at a time; the gradient of the loss is known as soon as
the logits are, so it is computed in the forward pass and the logits are not made twice.
The idea: "Cut Your Losses in Large-Vocabulary Language Models", https://arxiv.org/abs/2411.09009.

Shapes: N target rows, C width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ELEMENTS = 2**23
"""Logits held at a time: 32 MiB of fp32."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        n_rows, vocab_size = hidden.shape[0], weight.shape[0]
        rows = max(1, min(n_rows, CHUNK_ELEMENTS // vocab_size))
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_grad = torch.empty_like(hidden) if need_hidden else None
        weight_grad = torch.zeros_like(weight) if need_weight else None
        for start in range(0, n_rows, rows):
            piece, wanted = hidden[start : start + rows], labels[start : start + rows]
            logits = (piece @ weight.T).float()  # (rows, V)
            total += F.cross_entropy(logits, wanted, reduction="sum")
            if not (need_hidden or need_weight):
                continue
            slope = logits.softmax(dim=-1)
            slope[torch.arange(len(wanted), device=wanted.device), wanted] -= 1.0
            slope = slope.to(weight.dtype)
            if hidden_grad is not None:
                torch.mm(slope, weight, out=hidden_grad[start : start + rows])
            if weight_grad is not None:
                weight_grad.addmm_(slope.T, piece)
        ctx.save_for_backward(hidden_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        scale = grads[0]
        return (
            None if hidden_grad is None else hidden_grad * scale,
            None if weight_grad is None else weight_grad.mul_(scale),
            None,
        )


def linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The summed cross-entropy of ``hidden @ weight.T`` against ``labels``.

    Args:
        hidden: (N, C) the features of the target positions.
        weight: (V, C) the head.
        labels: (N,) int64, each in [0, V).

    Returns:
        () fp32, the sum over the N rows; equal to ``cross_entropy(..., reduction="sum")``.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, labels)
    return loss
