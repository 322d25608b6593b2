"""Compute a cheap activation again in the backward pass instead of keeping it.

A linear layer keeps its input for its weight's gradient. Where that input is a cheap function of something kept anyway
(a layer norm of the residual stream, a GELU of the layer before), keeping both doubles the memory for nothing: here the
function is applied once more when the gradient needs it. For GPT-2 that is two fifths of what a block keeps.
The idea: "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@runtime_checkable
class Recomputing(Protocol):
    """A block that knows best itself what of it is computed again."""

    def checkpoint(self) -> None:
        """From now on keep nothing but the input for the backward pass."""
        ...


def recompute(block: nn.Module) -> None:
    """From now on keep nothing but a block's input for the backward pass, and compute the rest again there.

    "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174.
    """
    if isinstance(block, Recomputing):
        block.checkpoint()
    else:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


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
