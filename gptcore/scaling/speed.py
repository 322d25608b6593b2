"""Speed: bytes that GPUs exchange, seconds of a step, tokens a second.

Letters: G GPUs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gptcore.errors import ConfigError
from gptcore.scaling.job import Job, count_parameters, flops_per_token
from gptcore.scaling.memory import block_parameters

MFU = 0.35
"""Share of the peak rate that plain torch with flash attention reaches, not compiled. Derived from published times:
nanoGPT 0.29 (124M, 8 A100, 4 days), llm.c, in hand-written CUDA, 0.60 (124M, A100) and 0.49 (1558M, H100)."""
GPUS_PER_MACHINE = 8
"""More GPUs than these exchange over the network."""
TOKENS_PER_PARAMETER = 20
"""Compute-optimal training tokens per parameter, Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556."""
_UPDATE_BYTES = 28
"""AdamW reads weight, gradient and two moments and writes all but the gradient: seven times four bytes."""


class Communication(NamedTuple):
    """Bytes that each GPU sends in an optimizer step."""

    all_reduce: int
    """DDP: the gradients, 2 (G - 1) / G times their size, in the last of the step's micro-batches."""
    all_gather: int
    """FSDP: the weights, for the forward and again for the backward pass of every micro-batch."""
    reduce_scatter: int
    """FSDP: the gradients, once a step."""

    @property
    def total(self) -> int:
        """The sum."""
        return sum(self)


def communication(job: Job) -> Communication:
    """What the exchange of weights and gradients costs; ring algorithms, as nccl-tests counts bus bandwidth."""
    others = (job.n_gpus - 1) / job.n_gpus
    n = count_parameters(job.model).total
    if not job.sharded:
        return Communication(int(2 * others * 4 * n), 0, 0)
    blocks = job.model.n_layers * block_parameters(job.model)
    gathered = job.product_bytes * (2 * blocks + (n - blocks)) * job.n_micro_batches
    return Communication(0, int(others * gathered), int(others * 4 * n))


def bandwidth(job: Job) -> float | None:
    """GB/s at which a ring over the job's GPUs moves data at best: the slower of link and machine's network.

    A ring enters and leaves each machine once, so that all its network cards serve one stream
    (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md). None for one GPU.

    Raises:
        ConfigError: it is not known for the device.
    """
    if job.n_gpus == 1:
        return None
    known = [job.gpu.link, job.gpu.network] if job.n_gpus > GPUS_PER_MACHINE else [job.gpu.link]
    if None in known:
        raise ConfigError(f"what {job.gpu.title}s send to each other is not known; give it by --bandwidth, in GB/s")
    return min(speed for speed in known if speed is not None)


class Pace(NamedTuple):
    """How fast a job goes at best, by the given rates."""

    compute_seconds: float
    """Forward and backward passes of a step."""
    communication_seconds: float
    """Exchange of a step."""
    exposed_seconds: float
    """The part of it that no computing hides."""
    update_seconds: float
    """AdamW, at the memory's bandwidth; 0 where that is not known."""
    tokens_per_second: float
    """Over all GPUs."""

    @property
    def step_seconds(self) -> float:
        """An optimizer step."""
        return self.compute_seconds + self.exposed_seconds + self.update_seconds


def pace(job: Job, *, mfu: float = MFU, bandwidth_gb: float | None = None) -> Pace:
    """Seconds of a step and tokens a second.

    Args:
        job: what is trained.
        mfu: share of the peak rate that forward and backward pass reach, recomputation not counted as work done.
        bandwidth_gb: GB/s of a ring over the GPUs; by default the hardware's.

    Raises:
        ConfigError: ``mfu`` or a bandwidth is out of range, or a rate of the device is not known.
    """
    if not 0 < mfu <= 1:
        raise ConfigError(f"expected mfu, a share of the peak rate, to be above 0 and at most 1, got {mfu}")
    if bandwidth_gb is not None and not bandwidth_gb > 0:
        raise ConfigError(f"expected bandwidth to be above 0 GB/s, got {bandwidth_gb}")
    speed = bandwidth_gb or bandwidth(job)
    samples = job.share
    work = samples * job.model.context_length * flops_per_token(job.model)
    again = 4 / 3 if job.checkpoint_activations else 1.0  # forward is a third of the work, and is done twice
    compute = again * work / (mfu * job.gpu.tflops(job.precision) * 1e12)
    exchange = communication(job).total / (speed * 1e9) if speed is not None else 0.0
    # DDP can hide its exchange behind the last micro-batch's backward pass, FSDP behind everything.
    backward = compute * (1 - (1 / 3) / again) / job.n_micro_batches
    exposed = max(0.0, exchange - (compute if job.sharded else backward))
    held = count_parameters(job.model).total / (job.n_gpus if job.sharded else 1)
    update = _UPDATE_BYTES * held / (job.gpu.memory_bandwidth * 1e9) if job.gpu.memory_bandwidth else 0.0
    tokens = job.batch_size * job.model.context_length
    return Pace(compute, exchange, exposed, update, tokens / (compute + exposed + update))


class Cost(NamedTuple):
    """What a whole training takes."""

    n_tokens: int
    """Training tokens."""
    n_steps: int
    """Optimizer steps."""
    hours: float
    """From the first step to the last; evaluation, checkpoints and restarts not counted."""
    gpu_hours: float
    """Hours times GPUs."""
    price: float | None
    """In the currency of the price of a GPU-hour; None without one."""


def cost(job: Job, speed: Pace, *, n_tokens: int | None = None, price: float | None = None) -> Cost:
    """Steps, hours and money for a number of tokens.

    Args:
        job: what is trained.
        speed: how fast.
        n_tokens: training tokens, by default ``TOKENS_PER_PARAMETER`` for each parameter.
        price: of one GPU-hour.

    Raises:
        ConfigError: a number is out of range.
    """
    wanted = TOKENS_PER_PARAMETER * count_parameters(job.model).total if n_tokens is None else n_tokens
    if wanted < 1:
        raise ConfigError(f"expected tokens to be at least 1, got {wanted}")
    if price is not None and price < 0:
        raise ConfigError(f"expected price to be at least 0, got {price}")
    n_steps = math.ceil(wanted / (job.batch_size * job.model.context_length))
    hours = n_steps * speed.step_seconds / 3600
    gpu_hours = hours * job.n_gpus
    return Cost(wanted, n_steps, hours, gpu_hours, None if price is None else gpu_hours * price)
