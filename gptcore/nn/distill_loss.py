"""Cross-entropy against the labels and against a teacher, without ever holding all logits of either model.

"Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531: both models' logits are divided by a
temperature, and the divergence is multiplied by its square so that the gradient's size does not depend on it.

As in ``gptcore/nn/linear_loss.py`` the gradient is known as soon as the logits are, and is computed with them.

Shapes: N target rows, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gptcore.nn.linear_loss import CHUNK_ELEMENTS

_HELD = 4
"""Matrices of a chunk's size that live at once: both models' logits and the probabilities made of them."""


class Mixture(NamedTuple):
    """What the loss is made of: (1 - soft) * cross-entropy + soft * temperature^2 * KL(teacher || student)."""

    temperature: float
    """Both logits are divided by it."""
    soft: float
    """Share of the teacher."""


class _Distilled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        teacher: Callable[[slice], Tensor],
        mixture: Mixture,
    ) -> Tensor:
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        n_rows, vocab_size = hidden.shape[0], weight.shape[0]
        rows = max(1, CHUNK_ELEMENTS // _HELD // vocab_size)
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_grad = torch.empty_like(hidden) if need_hidden else None
        weight_grad = torch.zeros_like(weight) if need_weight else None
        for start in range(0, n_rows, rows):
            piece = slice(start, start + rows)
            logits = (hidden[piece] @ weight.T).float()  # (n, V)
            loss, slope = distill_rows(logits, teacher(piece).float(), labels[piece], mixture)
            total += loss
            slope = slope.to(weight.dtype)
            if hidden_grad is not None:
                torch.mm(slope, weight, out=hidden_grad[piece])
            if weight_grad is not None:
                weight_grad.addmm_(slope.T, hidden[piece])
        ctx.save_for_backward(hidden_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        scale = grads[0]
        return (
            None if hidden_grad is None else hidden_grad * scale,
            None if weight_grad is None else weight_grad.mul_(scale),
            None,
            None,
            None,
        )


def distill_rows(logits: Tensor, teacher: Tensor, labels: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """The summed loss () of some rows and its gradient (n, V) with respect to the student's logits.

    Args:
        logits: (n, V) fp32, the student's.
        teacher: (n, V) fp32.
        labels: (n,) int64.
        mixture: what the loss is made of.
    """
    temperature, soft = mixture
    wanted = (teacher / temperature).log_softmax(dim=1)
    log_probs = (logits / temperature).log_softmax(dim=1)
    likely = wanted.exp()
    loss = soft * temperature**2 * (likely * (wanted - log_probs)).sum()
    slope = (log_probs.exp_() - likely).mul_(soft * temperature)
    plain = logits.log_softmax(dim=1)
    loss = loss - (1.0 - soft) * plain.gather(1, labels[:, None]).sum()
    slope.add_(plain.exp_(), alpha=1.0 - soft)
    slope[torch.arange(len(labels), device=labels.device), labels] -= 1.0 - soft
    return loss, slope


def linear_distillation(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, teacher: Callable[[slice], Tensor], mixture: Mixture
) -> Tensor:
    """The summed loss of a student with logits ``hidden @ weight.T``.

    Args:
        hidden: (N, C) the student's features at the target positions.
        weight: (V, C) its head.
        labels: (N,) int64, each in [0, V).
        teacher: gives the teacher's logits (n, V) for a slice of the N rows, without a gradient.
        mixture: what the loss is made of.

    Returns:
        () fp32, the sum over the N rows. Under autocast the products are made in its dtype, the loss in fp32.
    """
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(kind, enabled=False):
        loss: Tensor = _Distilled.apply(hidden, weight, labels, teacher, mixture)
    return loss
