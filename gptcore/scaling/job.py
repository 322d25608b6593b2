"""Job: a model and the GPUs that train it; how many parameters the model has and how many operations a token costs.

The operations of a token are those of PaLM's appendix B, https://arxiv.org/abs/2204.02311.

Letters: N parameters, C width, T context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gptcore.errors import ConfigError
from gptcore.models import GPTConfig
from gptcore.scaling.devices import Gpu, Precision

Kind = Literal["ddp", "fsdp"]
"""A copy of the model on each GPU, or one model spread over all; the same thing on one GPU."""
USABLE = 0.9
"""Share of a GPU's memory that a plan may fill; the rest is for CUDA, NCCL, cuBLAS and fragmentation."""
STEP_TOKENS = 2**19
"""Tokens of an optimizer step where no batch size is given: those of GPT-2 (512 samples of 1,024)."""


class Parameters(NamedTuple):
    """How many parameters each part of a model has."""

    token_embedding: int
    position_embedding: int
    attention: int
    feedforward: int
    norms: int
    head: int
    """0 where the head shares the token embedding's weights."""

    @property
    def total(self) -> int:
        """All of them, N."""
        return sum(self)


def count_parameters(model: GPTConfig) -> Parameters:
    """The exact numbers, as ``model.build()`` would have them."""
    c, n = model.width, model.n_layers
    heads, hidden = model.n_heads * model.head_size, model.hidden_size
    embedding = model.vocab_size * c
    return Parameters(
        token_embedding=embedding,
        position_embedding=model.context_length * c,
        attention=n * (3 * heads * c + (3 * heads if model.qkv_bias else 0) + c * heads + c),
        feedforward=n * (hidden * c + hidden + c * hidden + c),
        norms=(2 * n + 1) * 2 * c,
        head=0 if model.tied_head else embedding,
    )


def flops_per_token(model: GPTConfig) -> int:
    """Operations of forward and backward pass: 6 N + 12 layers C T.

    N counts the head and leaves out embeddings that are only looked up. Recomputed activations are not counted.
    """
    parts = count_parameters(model)
    looked_up = parts.position_embedding + (0 if model.tied_head else parts.token_embedding)
    return 6 * (parts.total - looked_up) + 12 * model.n_layers * model.width * model.context_length


def usual_batch_size(model: GPTConfig, *, n_gpus: int) -> int:
    """Samples of about ``STEP_TOKENS`` tokens, and at least one for each GPU."""
    return max(n_gpus, STEP_TOKENS // model.context_length)


@dataclass(frozen=True)
class Job:
    """One way to train a model on given GPUs."""

    model: GPTConfig
    """The model; every sample fills its context."""
    gpu: Gpu
    """The device, ``n_gpus`` times."""
    n_gpus: int = 1
    """Processes, one for each GPU."""
    precision: Precision = "fp32"
    """Numbers of the matrix products."""
    parallel: Kind = "ddp"
    """How many GPUs share the work; means nothing on one."""
    batch_size: int = 512
    """Samples of an optimizer step, over all GPUs."""
    micro_batch_size: int = 1
    """Samples of a forward pass on one GPU."""
    checkpoint_activations: bool = False
    """Whether each block's activations are computed again in the backward pass."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("n_gpus", "batch_size", "micro_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        if self.batch_size < self.n_gpus:
            raise ConfigError(
                f"batch_size is {self.batch_size}, fewer than the {self.n_gpus} GPUs; some would have nothing to do"
            )
        if self.precision == "bf16" and not self.gpu.bf16:
            raise ConfigError(f"{self.gpu.title} does not compute in bf16; give --precision fp16 or fp32")
        if self.precision == "fp16" and self.parallel == "fsdp":
            raise ConfigError("expected precision to be 'bf16' or 'fp32' with fsdp, got 'fp16'")

    @property
    def sharded(self) -> bool:
        """Whether weights, gradients and moments are spread over GPUs."""
        return self.parallel == "fsdp" and self.n_gpus > 1

    @property
    def share(self) -> int:
        """Samples of one GPU in a step."""
        return math.ceil(self.batch_size / self.n_gpus)

    @property
    def n_micro_batches(self) -> int:
        """Forward passes of one GPU in a step."""
        return math.ceil(self.share / self.micro_batch_size)

    @property
    def micro_tokens(self) -> int:
        """Tokens of a forward pass on one GPU."""
        return min(self.micro_batch_size, self.share) * self.model.context_length

    @property
    def product_bytes(self) -> int:
        """Bytes of a number in the matrix products."""
        return 4 if self.precision == "fp32" else 2

    @property
    def stream_bytes(self) -> int:
        """Bytes of a number in the residual stream: autocast (one GPU, DDP) leaves it in fp32, FSDP does not."""
        return self.product_bytes if self.sharded else 4

    @property
    def limit(self) -> int:
        """Bytes of each GPU that the plan may fill."""
        return int(USABLE * self.gpu.memory * 1e9)
