"""Cross-entropy of a linear head without ever holding all logits.

The logits (N rows by V words) are the largest tensor of a small language model. Here they are made, turned into the
loss and into their own gradient, and dropped, one chunk of rows at a time and in one reused buffer; the gradient of the
loss is known as soon as the logits are, so it is computed in the forward pass and the logits are not made twice.
The idea: "Cut Your Losses in Large-Vocabulary Language Models", https://arxiv.org/abs/2411.09009.

The buffer holds the logits transposed, (V, rows): a vocabulary is seldom a multiple of the vector width (GPT-2's 50,257
is odd), so rows of V numbers start at unaligned places and the matrix product loses a third of its speed. A chunk is a
multiple of 64 rows instead, which has the effect of padding the vocabulary without a padded word.

Shapes: N target rows, C width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 20_000_000
"""Logits held at a time: 80 MB of fp32. Half of it costs the products of GPT-2's head a fifth of their speed."""
_ALIGNED_ROWS = 64


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        n_rows, vocab_size = hidden.shape[0], weight.shape[0]
        rows = min(n_rows, max(_ALIGNED_ROWS, CHUNK_ELEMENTS // vocab_size // _ALIGNED_ROWS * _ALIGNED_ROWS))
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_grad = torch.empty_like(hidden) if need_hidden else None
        weight_grad = None
        if need_weight:
            weight_grad = torch.empty_like(weight) if n_rows else torch.zeros_like(weight)
        buffer = hidden.new_empty(vocab_size * rows)
        for start in range(0, n_rows, max(1, rows)):
            piece, wanted = hidden[start : start + rows], labels[start : start + rows]
            n = len(piece)
            made = torch.mm(weight, piece.T, out=buffer[: vocab_size * n].view(vocab_size, n))
            logits = made.float()  # (V, n); in fp32 the buffer itself
            places = (wanted, torch.arange(n, device=wanted.device))
            total -= logits[places].sum()
            highest = logits.amax(dim=0)
            logits.sub_(highest).exp_()
            mass = logits.sum(dim=0)
            total += (mass.log_() + highest).sum()
            if not (need_hidden or need_weight):
                continue
            logits.div_(mass.exp_())
            logits[places] -= 1.0
            slope = logits.to(weight.dtype)
            if hidden_grad is not None:
                torch.mm(slope.T, weight, out=hidden_grad[start : start + rows])
            if weight_grad is not None:
                weight_grad.addmm_(slope, piece, beta=float(start > 0))  # the first product writes over what is there
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
        () fp32, the sum over the N rows; equal to ``cross_entropy(..., reduction="sum")``. Under autocast the products
        are made in its dtype, the loss and its softmax in fp32.
    """
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(kind, enabled=False):
        loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, labels)
    return loss
