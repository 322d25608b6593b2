"""Where the time of a decoded token goes, and what reading the weights alone allows on this machine.

python -m benchmarks.decode_profile

GPT-2 124M, one sequence, 128 tokens in the cache; the kernels of ``benchmarks.decode``. The products are timed layer by
layer through the whole model, so that no weight is in the processor's cache from the time before. Memory is read by a
product with a matrix far larger than the caches.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

from benchmarks.decode import Kind, model_of
from benchmarks.machine import commit, machine
from benchmarks.options import Options, parse, shared_parser
from benchmarks.report import table

if TYPE_CHECKING:
    from gptcore.models import GPT

N_CACHED = 128
PARTS = ("qkv", "attention out", "feed-forward up", "feed-forward down", "head")
_LARGE = (16_384, 4_096)


def median_seconds(call: Callable[[], object], *, n: int) -> float:
    """Of one call, after one that is not counted."""
    call()
    seconds = []
    for _ in range(n):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def product_seconds(model: GPT, *, n: int) -> list[float]:
    """Seconds of a token's products by part, all layers together: the median over n tokens."""
    import torch

    blocks = [(b.attention.qkv, b.attention.out, b.feedforward.up, b.feedforward.down) for b in model.blocks]  # type: ignore[union-attr]
    width, inner = model.config.width, model.config.hidden_size
    inputs = [torch.randn(1, size) for size in (width, width, width, inner, width)]
    spent: list[list[float]] = [[] for _ in PARTS]
    for _ in range(n + 1):
        sums = [0.0] * len(PARTS)
        for i, layer in [*((i, layer) for block in blocks for i, layer in enumerate(block)), (4, model.head)]:
            started = time.perf_counter()
            layer(inputs[i])  # type: ignore[operator]
            sums[i] += time.perf_counter() - started
        for each, seconds in zip(spent, sums, strict=True):
            each.append(seconds)
    return [statistics.median(each[1:]) for each in spent]


def step_seconds(model: GPT, *, n: int) -> float:
    """Seconds of a whole token: embeddings, blocks with their attention, head."""
    import torch

    cache = model.new_cache(1, capacity=2 * N_CACHED)
    token = torch.zeros(1, 1, dtype=torch.long)

    def step() -> None:
        cache.lengths.fill_(N_CACHED)
        model(token, cache=cache)

    return median_seconds(step, n=n)


def weight_bytes(model: GPT) -> int:
    """Bytes that a token's products read: every matrix with its scales and bias, a tied one once."""
    from gptcore.kernels.prepare import KernelLinear

    shadows = (vars(layer).get("forward") for layer in model.modules())
    used = {t.data_ptr(): t for shadow in shadows if isinstance(shadow, KernelLinear) for t in shadow.weights.tensors}
    return sum(tensor.numel() * tensor.element_size() for tensor in used.values())


def large_product(kind: Kind, *, n: int) -> tuple[float, float]:
    """GB/s and billions of weights a second of one row by a matrix that no cache holds."""
    import torch

    from gptcore.kernels.native import Weights, load_kernels
    from gptcore.transforms.quantize import QuantizedMatrix

    kernels = load_kernels()
    if kernels is None:
        raise SystemExit("there are no kernels on this machine: gptworks doctor says why")
    dense = torch.randn(*_LARGE)
    bits = 8 if kind == "int8" else 4
    weights = Weights(dense if kind == "fp32" else QuantizedMatrix(dense, bits=bits, group_size=32), None)
    x = torch.randn(1, _LARGE[1])
    seconds = median_seconds(lambda: kernels.linear(weights, x), n=n)
    read = sum(tensor.numel() * tensor.element_size() for tensor in weights.tensors)
    return read / seconds / 1e9, dense.numel() / seconds / 1e9


def report(options: Options) -> str:
    """A column for each kind of weights."""
    import torch

    kinds: tuple[Kind, ...] = get_args(Kind)
    n = 3 if options.smoke else 40
    columns: list[list[str]] = []
    memory = 0.0
    for kind in kinds:
        rate, weights = large_product(kind, n=max(3, n // 4))
        memory = memory or rate  # fp32, which comes first, takes no unpacking
        model = model_of(options, kind=kind, prepared=True)
        with torch.inference_mode():
            products, step = product_seconds(model, n=n), step_seconds(model, n=n)
        read = weight_bytes(model)
        allowed = memory * 1e9 / read
        columns.append(
            [
                *(f"{1000 * seconds:.2f}" for seconds in products),
                f"{1000 * (step - sum(products)):.2f}",
                f"{1000 * step:.2f}",
                f"{read / 1e6:.0f}",
                f"{read / sum(products) / 1e9:.1f}",
                f"{rate:.1f}",
                f"{weights:.1f}",
                f"{1 / step:.1f}",
                f"{allowed:.1f}",
                f"{1 / step / allowed:.0%}",
            ]
        )
    names = [
        *(f"{part}, ms a token" for part in PARTS),
        "all else (attention, norms, python), ms",
        "a token, ms",
        "weights read a token, MB",
        "the products' GB/s",
        "GB/s of a product far larger than the caches",
        "... billions of weights a second",
        "tokens/s, without the prompt",
        f"tokens/s that reading at {memory:.1f} GB/s allows",
        "share of it",
    ]
    rows = [[name, *(column[i] for column in columns)] for i, name in enumerate(names)]
    return f"{machine()}; commit {commit()}\n\n{table(['', *kinds], rows)}"


def main() -> None:
    """Measure and print."""
    import torch

    options = parse(shared_parser(str(__doc__), steps=1), sys.argv[1:])
    torch.set_num_threads(options.threads)
    sys.stdout.write(report(options) + "\n")


if __name__ == "__main__":
    main()
