"""Unstructured pruning: single weights of the blocks' linear layers become zero; the shapes stay.

Magnitude: the smallest weights of a matrix. Wanda: "A Simple and Effective Pruning Approach for Large Language Models",
https://arxiv.org/abs/2306.11695: in each output row the smallest |weight| times the norm of its input on calibration
text. Zeros take as much memory and time as other numbers here: this tells what a model can do without, and makes
nothing faster.

Shapes: O outputs (rows), I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptcore.compress.calibrate import Calibration, Moments
from gptcore.errors import ConfigError
from gptcore.models.network import Network
from gptcore.nn.surgery import merge_adapters, named_linears


@dataclass(frozen=True)
class Pattern:
    """Which share of the weights goes."""

    sparsity: float = 0.5
    """Share of zeros, 0 to 1; ``keep`` of ``of`` goes before it."""
    keep: int | None = None
    """With ``of``: so many of each ``of`` neighbouring inputs stay, as 2:4 hardware wants it."""
    of: int | None = None
    """See ``keep``."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not 0.0 <= self.sparsity < 1.0:
            raise ConfigError(f"sparsity is {self.sparsity}; it must be at least 0 and below 1")
        if (self.keep is None) != (self.of is None):
            raise ConfigError("a pattern n:m needs both numbers, as in 2:4")
        if self.keep is not None and self.of is not None and not 0 < self.keep < self.of:
            raise ConfigError(
                f"the pattern is {self.keep}:{self.of}; the first number must be above 0 and below the second"
            )

    def dropped(self, scores: Tensor, *, by_row: bool) -> Tensor:
        """(O, I) bool: the lowest of the scores (O, I), row by row or in the whole matrix.

        Raises:
            ConfigError: the inputs are not a multiple of ``of``.
        """
        if self.keep is None or self.of is None:
            ranked = scores if by_row else scores.reshape(1, -1)
            return _lowest(ranked, int(self.sparsity * ranked.shape[1])).view_as(scores)
        if scores.shape[1] % self.of:
            raise ConfigError(
                f"{scores.shape[1]} inputs cannot be cut into groups of {self.of} for {self.keep}:{self.of}"
            )
        return _lowest(scores.view(-1, self.of), self.of - self.keep).view_as(scores)


def _lowest(scores: Tensor, n: int) -> Tensor:
    """(R, K) bool: the ``n`` lowest of each row; of equal ones the first."""
    chosen = scores.argsort(dim=1, stable=True)[:, :n]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)


@torch.no_grad()
def magnitude(model: Network, pattern: Pattern) -> Network:
    """Zero the smallest weights of each of the blocks' matrices, in place."""
    merge_adapters(model)
    for block in model.each_block():
        for _, layer in named_linears(block):
            layer.weight[pattern.dropped(layer.weight.abs(), by_row=False)] = 0.0
    return model


@torch.no_grad()
def wanda(model: Network, calibration: Calibration, pattern: Pattern) -> Network:
    """Zero what the calibration text needs least in each row, in place, layer after layer."""
    merge_adapters(model)

    def change(_: str, layer: nn.Linear, moments: Moments) -> nn.Module:
        norms = moments.gram.diagonal().sqrt()  # (I,)
        layer.weight[pattern.dropped(layer.weight.abs() * norms, by_row=True)] = 0.0
        return layer

    calibration.through(model, change)
    return model


def share_of_zeros(model: Network) -> float:
    """Share of the weights of the blocks' plain linear layers that are zero; 0 where there are none."""
    weights = [layer.weight for block in model.each_block() for _, layer in named_linears(block)]
    n = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / n if n else 0.0
