"""Compute a cheap activation again in the backward pass instead of keeping it.

A linear layer keeps its input for its weight's gradient. Where that input is a cheap function of something kept anyway
(a layer norm of the residual stream, a GELU of the layer before), keeping both doubles the memory for nothing: here the
function is applied once more when the gradient needs it. For GPT-2 that is two fifths of what a block keeps.
The idea: "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def through(
    layer: Callable[[Tensor], Tensor], activation: Callable[[Tensor], Tensor], x: Tensor, *, lean: bool = True
) -> Tensor:
    """``layer(activation(x))``; where autograd would keep ``activation(x)`` it keeps ``x``.

    Args:
        layer: a linear layer or what stands in its place (an adapter, a quantized one).
        activation: cheap, and free of random numbers and of state.
        x: its input, (B, T, anything).
        lean: False keeps ``activation(x)`` after all, for use inside a checkpoint that drops everything anyway.
    """
    y = activation(x)
    if not (lean and torch.is_grad_enabled() and y.requires_grad):
        return layer(y)
    address, n = y.data_ptr(), y.numel()

    def pack(kept: Tensor) -> Any:
        same = kept.data_ptr() == address and kept.numel() == n and kept.is_contiguous()
        return kept.shape if same else kept.detach()  # a kept output that knows its own node would keep that alive

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.no_grad():
            return activation(x).view(packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return layer(y)
