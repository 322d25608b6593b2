"""Muon for the matrices of the blocks, AdamW for everything else.

Muon replaces the running mean of a matrix's gradient by the nearest matrix whose singular values are all alike, so that
rare directions are learned as fast as common ones. "Muon: An optimizer for hidden layers in neural networks", Jordan et
al. 2024, https://kellerjordan.github.io/posts/muon/; the size of its updates is that of AdamW's, so that both take one
learning rate: "Muon is Scalable for LLM Training", https://arxiv.org/abs/2502.16982, section 2.2. Queries, keys and
values share a matrix here but are three maps, and are treated as such.

torch.optim.Muon is the same but computes in bf16 on every device. A processor without instructions for bf16 takes fifty
times as long for that as for fp32 (docs/decisions/0007-muon.md), so here only GPUs do.

Shapes: R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.models.network import Network
from gptcore.nn.linear import maps_in
from gptcore.train.eager import EagerOptimizer
from gptcore.train.optim import LR_SCALE, OptimizerConfig, trained_parameters

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7
_ADAMW_RMS = 0.2
"""Root mean square of AdamW's updates before the learning rate, as the paper found it in large runs."""


@dataclass(frozen=True)
class Muon(OptimizerConfig):
    """Settings of Muon, and of AdamW for embeddings, head, norms and biases."""

    momentum: float = 0.95
    """Decay of the gradient's running mean, for the matrices of the blocks."""
    matrix_lr_scale: float = 1.0
    """Learning rate of the matrices of the blocks, as a multiple of ``lr``."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be."""
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum is {self.momentum}; it must be at least 0 and below 1")
        if not self.matrix_lr_scale > 0:
            raise ConfigError(f"matrix_lr_scale is {self.matrix_lr_scale}; it must be above 0")

    def build(self, model: Network) -> torch.optim.Optimizer:
        """Muon and AdamW as one optimizer; where the blocks have no trained matrix, AdamW alone.

        Raises:
            ConfigError: every parameter is frozen.
        """
        blocks = nn.ModuleList(model.each_block())
        in_blocks, maps = {id(p) for p in blocks.parameters() if p.dim() == 2}, maps_in(blocks)
        by_maps: dict[tuple[int, ...], list[nn.Parameter]] = {(): []}
        rest: list[nn.Parameter] = []
        for parameter in trained_parameters(model):
            if id(parameter) in in_blocks:
                by_maps.setdefault(maps.get(id(parameter), ()), []).append(parameter)
            else:
                rest.append(parameter)
        groups = [{"params": matrices, "maps": rows} for rows, matrices in by_maps.items() if matrices]
        parts: list[torch.optim.Optimizer] = []
        if groups:
            parts.append(_Orthogonal(groups, self))
        if rest:
            parts.append(self.adamw(rest))
        return parts[0] if len(parts) == 1 else _Joined(parts)


class _Joined(EagerOptimizer):
    """Several optimizers of different parameters that are seen as one: their groups and their state are shared."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters."""
        assert closure is None
        for part in self._parts:
            part.step()


class _Orthogonal(EagerOptimizer):
    """Muon over matrices alone."""

    def __init__(self, groups: list[dict[str, Any]], config: Muon) -> None:
        defaults = {
            "lr": config.lr,
            "weight_decay": config.weight_decay,
            "momentum": config.momentum,
            LR_SCALE: config.matrix_lr_scale,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group)

    def _update(self, matrix: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        state, momentum, rate = self.state[matrix], group["momentum"], group["lr"]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(grad)
        mean: Tensor = state["momentum"].lerp_(grad, 1 - momentum)
        ahead = _whole(grad.lerp(mean, momentum))  # Nesterov's
        each_map = ahead.split(group["maps"] or len(ahead))
        maps = [_ADAMW_RMS * max(each.shape) ** 0.5 * orthogonal(each) for each in each_map]
        matrix.mul_(1 - rate * group["weight_decay"])
        matrix.add_(_spread_as(matrix, torch.cat(maps)), alpha=-rate)


def orthogonal(matrix: Tensor) -> Tensor:
    """The orthogonal matrix nearest to one of (R, C), roughly: its singular values become 0.7 to 1.2, those at 0 stay.

    Five Newton-Schulz iterations with the post's coefficients; in bf16 on a GPU, else in fp32.
    """
    a, b, c = _COEFFICIENTS
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / x.norm().clamp(min=_SMALLEST_NORM)
    for _ in range(_ITERATIONS):
        gram = x @ x.T  # (R, R)
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.T if is_tall else x
    return x.to(matrix.dtype)


def _whole(tensor: Tensor) -> Tensor:
    """Gathered, where FSDP has spread it over the processes."""
    gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def _spread_as(matrix: Tensor, value: Tensor) -> Tensor:
    """This process's part of what all of them have computed alike; the whole where nothing is spread."""
    if not hasattr(matrix, "full_tensor"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor  # 50 MB that one process alone does not need

    assert isinstance(matrix, DTensor)
    return distribute_tensor(value, matrix.device_mesh, matrix.placements, src_data_rank=None)
