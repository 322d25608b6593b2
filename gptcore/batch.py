"""Batch and Loss: the two values of a training step.

A ``Batch`` is born aligned: its targets are already shifted, so nobody downstream shifts again. A ``Loss`` is a sum
with its count, so that micro-batches and processes add up exactly and one division gives the mean.

Shapes: B rows, T positions, N positions of all packed rows together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100
"""The label of a position that is not a target (the value torch's cross-entropy ignores)."""


@dataclass(frozen=True)
class Batch:
    """What one forward pass reads."""

    inputs: dict[str, Tensor]
    """``tokens`` (B, T) int64; for classification also ``last`` (B,) int64: each row's last real token."""
    targets: dict[str, Tensor]
    """What only the objective reads: ``labels`` (B, T) int64, ``IGNORED`` where no target, or ``classes`` (B,)."""
    n_tokens: int = 0
    """Real (not padding) input tokens, for throughput."""
    lengths: tuple[int, ...] | None = None
    """Where the B rows are packed, one after another in one row (1, N): the positions of each."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        move = {"device": device, "non_blocking": True}
        return Batch(
            {k: v.to(**move) for k, v in self.inputs.items()},  # type: ignore[call-overload]
            {k: v.to(**move) for k, v in self.targets.items()},  # type: ignore[call-overload]
            self.n_tokens,
            self.lengths,
        )


@dataclass(frozen=True)
class Loss:
    """A summed loss over ``count`` items, and further sums by name (for example ``correct``)."""

    total: Tensor
    """() fp32: the sum of the items' losses."""
    count: int
    """The number of items (target tokens, rows) in the sum."""
    sums: dict[str, float]
    """Further sums over the same items."""
