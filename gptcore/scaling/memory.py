"""Memory: what one GPU holds while it trains, by part, and what would make it less.

It follows what the layers keep for the backward pass (``gptcore/nn/block.py``), the chunked head
(``gptcore/nn/linear_loss.py``) and how torch's engines hold weights (``gptcore/train/distributed.py``).

Letters: C width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from gptcore.models import GPTConfig
from gptcore.nn.linear_loss import CHUNK_ELEMENTS
from gptcore.scaling.job import Job, Kind, count_parameters

_MOST_GPUS = 1024
_Place = Literal["stream", "product", "norm", "gelu"]
_KEPT_BY_BLOCK: tuple[tuple[str, int, _Place], ...] = (
    ("input of the first norm", 1, "stream"),
    ("its output, input of the query, key and value projection", 1, "norm"),
    ("queries, keys and values", 3, "product"),
    ("output of the attention, input of the output projection", 1, "product"),
    ("input of the second norm", 1, "stream"),
    ("its output, input of the feed-forward layer", 1, "norm"),
    ("before GELU", 4, "product"),
    ("after GELU, input of the second linear layer", 4, "gelu"),
)
"""What, how many times C for each token, and what decides its bytes: a number of the residual stream or of the matrix
products; or it is computed again from its input (``gptcore/nn/recompute.py``), a norm's only where it needs no cast."""
_WORKING_WIDTHS = 9
"""Gradients that live at once in a block's backward pass: before and after GELU, and of the residual stream."""


class Memory(NamedTuple):
    """Bytes on one GPU when most are held: an upper bound, since not all parts have their peak at once."""

    weights: int
    """What the products use all the time: fp32 weights, or autocast's half-precision copies."""
    masters: int
    """fp32 weights behind half-precision ones."""
    gradients: int
    """fp32."""
    moments: int
    """AdamW's two, fp32."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    logits: int
    """One chunk of logits; in half precision also its fp32 form and its slope."""
    head_gradient: int
    """Made in the forward pass; the tied embedding's gradient waits for it until the end of the backward pass."""
    working: int
    """What the backward pass needs beyond the chunk's memory: gradients of activations, a block computed again."""
    buffers: int
    """FSDP's gathered blocks and what it reduces; DDP's buckets are the gradients themselves."""

    @property
    def total(self) -> int:
        """The sum."""
        return sum(self)


def block_bytes_per_token(job: Job, *, lean: bool = True) -> int:
    """Bytes that one block keeps of one token for its backward pass.

    Flash attention keeps the logarithm of each row's sum, one fp32 per head, and not the matrix; each norm keeps mean
    and scale. Dropout, where it is used, adds its masks, which are not counted.

    Args:
        job: what is trained.
        lean: whether norms and GELU are computed again; inside a checkpoint they are not.
    """
    product, stream = job.product_bytes, job.stream_bytes
    size: dict[_Place, int] = {"stream": stream, "product": product, "norm": product, "gelu": product}
    if lean:
        size |= {"gelu": 0, "norm": 0 if stream == product else product}
    kept = sum(widths * size[place] for _, widths, place in _KEPT_BY_BLOCK)
    return kept * job.model.width + 4 * 4 + 4 * job.model.n_heads


def activation_bytes(job: Job) -> int:
    """Bytes of all activations that a forward pass keeps: everything, or with checkpoints the blocks' inputs alone."""
    width, stream = job.model.width, job.stream_bytes
    block = stream * width if job.checkpoint_activations else block_bytes_per_token(job)
    outside = 8 + stream * width + 2 * 4 + job.product_bytes * width  # token id; last norm; gradient of the features
    return job.micro_tokens * (job.model.n_layers * block + outside)


def memory(job: Job) -> Memory:
    """What one GPU holds."""
    parts, half = count_parameters(job.model), job.product_bytes < 4
    spread = math.ceil(parts.total / job.n_gpus) if job.sharded else parts.total
    copies = 0 if job.sharded else job.product_bytes * (parts.attention + parts.feedforward)
    whole_gradients = 4 * parts.total if job.sharded and job.n_micro_batches > 1 else 0  # reduced in the last pass
    embedding = job.model.vocab_size * job.model.width
    activations = activation_bytes(job)
    logits = min(job.micro_tokens * job.model.vocab_size, CHUNK_ELEMENTS) * (8 if half else 4)
    # Three moments in turn: the head (logits), a block's backward pass, the embedding's. What one has freed, the next
    # takes; behind checkpoints also autocast's copies of the other blocks are free by then.
    block = _block_working_bytes(job) - (copies if half and job.checkpoint_activations else 0)
    last = (8 if job.sharded else 4) * embedding - activations  # one gradient of embedding and head, or two
    return Memory(
        weights=copies if half else 4 * spread,
        masters=4 * spread if half else 0,
        gradients=4 * spread + whole_gradients,
        moments=8 * spread,
        activations=activations,
        logits=logits,
        head_gradient=(6 if half else 4) * embedding,
        working=max(0, max(block, last) - logits),
        buffers=_gather_bytes(job) if job.sharded else 0,
    )


def _block_working_bytes(job: Job) -> int:
    gradients = _WORKING_WIDTHS * job.model.width * job.product_bytes
    again = block_bytes_per_token(job, lean=False) if job.checkpoint_activations else 0
    return job.micro_tokens * (gradients + again)


def _gather_bytes(job: Job) -> int:
    # Embeddings and last norm stay gathered from forward to backward pass; of the blocks there are one at work and one
    # on its way, a gradient, and the fp32 gradient of the block before in its exchange.
    product, block = job.product_bytes, block_parameters(job.model)
    rest = count_parameters(job.model).total - job.model.n_layers * block
    return product * rest + (3 * product + 4) * block


def block_parameters(model: GPTConfig) -> int:
    """Parameters of one block."""
    parts = count_parameters(model)
    return (parts.attention + parts.feedforward) // model.n_layers + 4 * model.width


def fits(job: Job) -> bool:
    """Whether one GPU can hold what the job needs."""
    return memory(job).total <= job.limit


def fit_job(job: Job, *, parallels: Sequence[Kind], micro_batch_size: int | None = None) -> Job:
    """The first of ``parallels`` that fits, with the largest micro-batch (a power of two) that does.

    Where nothing fits: the last of them with the smallest micro-batch.
    """
    powers = [2**i for i in reversed(range(job.share.bit_length()))]
    sizes = powers if micro_batch_size is None else [micro_batch_size]
    ways = [replace(job, parallel=kind, micro_batch_size=size) for kind in parallels for size in sizes]
    return next((way for way in ways if fits(way)), ways[-1])


class Remedy(NamedTuple):
    """A change of a job, and what it would need then."""

    change: str
    """The options of ``gptworks plan`` that make it."""
    job: Job
    total: int
    """Bytes on one GPU."""
    fits: bool


def remedies(job: Job) -> list[Remedy]:
    """Changes that need less memory, each alone, then all together, then on more GPUs; those that help at all."""
    before = memory(job).total
    tried = [(change, other, memory(other).total) for change, other in _changes(job)]
    return [Remedy(change, other, total, fits(other)) for change, other, total in tried if total < before]


def _changes(job: Job) -> Iterator[tuple[str, Job]]:
    single: list[tuple[str, dict[str, Any]]] = []
    if not job.checkpoint_activations:
        single.append(("--checkpoint-activations", {"checkpoint_activations": True}))
    if job.micro_batch_size > 1:
        single.append(("--micro-batch 1", {"micro_batch_size": 1}))
    if job.precision == "fp32" and job.gpu.bf16 and job.gpu.half_tflops is not None:
        single.append(("--precision bf16", {"precision": "bf16"}))
    if job.n_gpus > 1 and job.parallel == "ddp" and job.precision != "fp16":
        single.append(("--parallel fsdp", {"parallel": "fsdp"}))
    least, flags = job, []
    for flag, fields in single:
        least = replace(least, **fields)
        flags.append(flag)
        yield flag, replace(job, **fields)
    if len(single) > 1:
        yield " ".join(flags), least
    if job.precision == "fp16":
        return  # FSDP does not train in it, and more copies of a model that does not fit do not help
    doubled = [job.n_gpus * 2**i for i in range(1, 11) if job.n_gpus * 2**i <= _MOST_GPUS]
    spread = [replace(least, parallel="fsdp", n_gpus=n, batch_size=max(job.batch_size, n)) for n in doubled]
    if spread:
        enough = next((other for other in spread if fits(other)), spread[-1])
        if "--parallel fsdp" not in flags:
            flags.append("--parallel fsdp")
        yield " ".join([*flags, f"--gpus {enough.n_gpus}"]), enough
