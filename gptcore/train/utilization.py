"""Model FLOPs utilization: what a step's arithmetic needs, and how fast this machine multiplies matrices.

The share of a machine's rate that the model's own operations reach, as in PaLM's appendix B,
https://arxiv.org/abs/2204.02311: 6 N + 12 layers C T for a token of a model that is trained whole. Here also for models
whose parts are frozen, data in which not every token is a target, and short rows. What an implementation computes again
is not counted, and what it leaves out is.

Letters: N parameters, C width, T length of a row.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import torch
from torch import nn

from gptcore.models.base import Model
from gptcore.nn.surgery import n_coded
from gptcore.train.config import Precision
from gptcore.train.parallel import DTYPES, Parallel

_SECONDS = 0.2
_SIZES = {"cpu": 1024, "cuda": 4096}


@dataclass(frozen=True)
class Work:
    """Operations of forward and backward pass."""

    per_token: float
    """In the matrices of the blocks."""
    per_item: float
    """In the head, which is only needed for what the loss counts."""
    per_pair: float
    """In attention, for each token and each place of its row."""

    @staticmethod
    def of(model: Model) -> Work:
        """Those of a model as it is trained: two for each weight forward, two for the gradient of what goes into it
        where something is trained at or below it, two for the weight's own gradient where it is trained.
        """
        head = list(model.head.parameters())
        looked_up = [p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()]
        reaches = any(p.requires_grad for p in looked_up)
        per_token, n_reached = 0.0, 0
        for block in model.blocks:
            reaches = reaches or any(p.requires_grad for p in block.parameters())
            per_token += _matrices(list(block.parameters()), reaches=reaches)
            per_token += n_coded(block) * (2.0 + 2.0 * reaches)
            n_reached += reaches
        return Work(
            per_token=per_token,
            per_item=_matrices(head, reaches=True) + 4.0 * n_coded(model.head),
            per_pair=4.0 * model.config.width * (len(model.blocks) + 2 * n_reached),
        )

    def flop(self, *, n_tokens: int, n_items: int, n_rows: int) -> float:
        """Operations of a step: input tokens, items of the loss, and samples, taken to be of one length."""
        return n_tokens * (self.per_token + self.per_pair * n_tokens / n_rows) + n_items * self.per_item


def _matrices(parameters: list[nn.Parameter], *, reaches: bool) -> float:
    return sum(p.numel() * (2.0 + 2.0 * reaches + 2.0 * p.requires_grad) for p in parameters)


def ceiling(parallel: Parallel, *, precision: Precision) -> float:
    """FLOP/s of the processes together in large matrix products; all of them must ask."""
    return parallel.sum([gemm_rate(parallel.device, DTYPES.get(precision, torch.float32))])[0]


@functools.cache
def gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of the large matrix products that fit into a fifth of a second; measured once a process.

    The numbers come from a generator of their own: measuring changes no stream.
    """
    size = _SIZES.get(device.type, 1024)
    own = torch.Generator(device).manual_seed(0)
    a, b = (torch.rand(size, size, generator=own, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    best, begun = float("inf"), time.monotonic()
    while time.monotonic() - begun < _SECONDS:
        started = time.monotonic()
        torch.mm(a, b, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.monotonic() - started)
    return 2 * size**3 / best
