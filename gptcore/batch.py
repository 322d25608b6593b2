"""Batch and Loss: the two values of a training step.

A ``Batch`` is born aligned: its targets are already shifted, so nobody downstream shifts again. A ``Loss`` is sums, one
for each part; how many items a part has is counted from the targets, so that micro-batches and processes add up exactly
and one division gives each part's mean.

Shapes: B rows, T positions, N positions of all packed rows together.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100
"""The label of a position that is not a target (the value torch's cross-entropy ignores)."""


@dataclass(frozen=True)
class Batch:
    """What one forward pass reads."""

    inputs: dict[str, Tensor]
    """What the network reads: ``tokens`` (B, T) int64, or packed (1, N); an encoder-decoder also ``source`` (B, S)."""
    targets: dict[str, Tensor]
    """What only the objective reads: ``labels`` (B, T) int64, ``IGNORED`` where no target, or ``classes`` (B,)."""
    n_tokens: int = 0
    """Real (not padding) input tokens, for throughput."""
    lengths: tuple[int, ...] = ()
    """Real positions of each of the B rows, of the ``source`` where there is one; without them all are real."""
    packed: bool = False
    """Whether the rows stand one after another in one row (1, N); otherwise they are padded on the right."""

    def __post_init__(self) -> None:
        """Without lengths every row is full; what has no positions, such as an image, counts as one."""
        if not self.lengths and self.inputs:
            rows = self.inputs.get("source", next(iter(self.inputs.values())))
            full = rows.shape[1] if rows.dim() == 2 else 1
            object.__setattr__(self, "lengths", (full,) * len(rows))

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(iter(self.inputs.values())).device

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""

        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        return dataclasses.replace(self, inputs=move(self.inputs), targets=move(self.targets))


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
