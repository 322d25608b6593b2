"""How fast this machine multiplies matrices: what the share is taken of that a network's own operations reach.

Model FLOPs utilization as in PaLM's appendix B, https://arxiv.org/abs/2204.02311; the operations are
``Network.operations``.
"""

from __future__ import annotations

import functools
import time

import torch

from gptcore.train.config import Precision
from gptcore.train.parallel import DTYPES, Parallel

_SECONDS = 0.2
_SIZES = {"cpu": 1024, "cuda": 4096}


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
