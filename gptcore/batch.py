"""Batch and Loss: the two values of a training step.

A ``Batch`` is born aligned: its targets are already shifted, so nobody downstream shifts again. A ``Loss`` is sums, one
for each part; how many items a part has is counted from the targets, so that micro-batches and processes add up exactly
and one division gives each part's mean.

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
    """The summed losses of a batch by part, and further sums by name (for example ``correct``)."""

    parts: dict[str, Tensor]
    """Name of a part -> () fp32, nats: the sum over that part's items. While training every part of the objective is
    there: one without items in this batch is a sum over nothing that still hangs on the model, as torch's losses over
    no rows do, because processes wait for each other's gradients of all weights."""
    sums: dict[str, float]
    """Further sums over the items."""

    @property
    def total(self) -> Tensor:
        """() fp32: the sum of a loss of one part; the parts of another have denominators of their own."""
        if len(self.parts) != 1:
            raise ValueError(f"expected a loss of one part, got {', '.join(self.parts) or 'none'}; read Loss.parts")
        return next(iter(self.parts.values()))
