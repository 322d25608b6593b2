"""How far an update moves the weights, relative to their size.

A healthy ratio is about 1e-3 (https://cs231n.github.io/neural-networks-3/#ratio); far below, the rate is too low, far
above, too high. It is taken over rows of a few matrices spread over the depth of the model: copying all of them would
cost half a gigabyte at 124M parameters, and a tenth of a step where few are trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gptcore.train.parallel import Parallel

_MATRICES = 4
_LARGEST = 2**24
_NUMBERS = 2**18
"""Of each matrix, about: its rows are taken at even distances."""


def pick_sample(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Rows of up to four matrices, evenly spread from the first to the last, as far as this process holds them.

    Not the largest: an embedding of 50,257 words would cost as much to copy as five blocks.
    """
    matrices = [p for p in parameters if p.dim() >= 2 and p.numel() <= _LARGEST] or list(parameters)
    step = max(1, (len(matrices) - 1) // (_MATRICES - 1))
    here = [getattr(p, "_local_tensor", p).detach() for p in matrices[::step][:_MATRICES]]
    return [tensor[:: max(1, tensor.numel() // _NUMBERS)] for tensor in here]


def copy_sample(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Copies of the sampled matrices before an update."""
    return [tensor.clone() for tensor in pick_sample(parameters)]


@torch.no_grad()
def update_ratio(parameters: Sequence[nn.Parameter], before: Sequence[Tensor], parallel: Parallel) -> float:
    """Norm of the sampled matrices' change over their norm before it; 0 where they are all zero."""
    change, size = 0.0, 0.0
    for now, then in zip(pick_sample(parameters), before, strict=True):
        change += float((now - then).float().square().sum())
        size += float(then.float().square().sum())
    if parallel.sharded:
        change, size = parallel.sum([change, size])
    return (change / size) ** 0.5 if size else 0.0
