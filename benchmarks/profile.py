"""Where the time of a training step goes, and what the matrix products alone allow on this machine.

python -m benchmarks.profile --size 124m       # or 6x384; models and batches are those of benchmarks.pretrain
python -m benchmarks.profile --size lora       # or those of benchmarks.lora

Operations are timed by torch's profiler in a real run, each without those that it calls. The last lines say how fast
the same step would be if everything but the products took no time at all.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import lora, pretrain
from benchmarks.options import Options, parse, shared_parser
from benchmarks.report import table

GROUPS = (
    ("matrix products", ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm")),
    ("attention", ("aten::_scaled_dot_product_flash_attention",)),
    ("optimizer and clipping", ("aten::_fused_adamw", "aten::_foreach", "aten::linalg_vector_norm")),
    ("GELU and layer norm", ("aten::gelu", "aten::native_layer_norm")),
    ("softmax of the vocabulary", ("aten::exp_", "aten::sub_", "aten::div_", "aten::amax", "aten::log_")),
    ("sums (biases, softmax)", ("aten::sum",)),
    ("copies and fills", ("aten::copy_", "aten::fill_", "aten::zero_", "aten::cat", "aten::clone")),
    ("additions and embeddings", ("aten::add", "aten::mul", "aten::embedding", "aten::index")),
)
"""Kinds of operations and how their names begin; the first that fits counts, the rest is "everything else"."""


def group_of(name: str) -> str:
    """The kind of an operation; products are known by their whole name, since ``aten::mm`` begins no other's."""
    for group, starts in GROUPS:
        exact = group == "matrix products"
        if any(name == start if exact else name.startswith(start) for start in starts):
            return group
    return "everything else"


def _work(options: Options) -> Any:
    return lora if options.size == "lora" else pretrain


def profiled(options: Options, folder: Path) -> tuple[Counter[str], list[float], float]:
    """Seconds a step by kind of operation, seconds of each step, and operations of the products of a step."""
    from torch.profiler import ProfilerActivity, profile, schedule

    from benchmarks.ours import StepClock
    from gptcore.train import MemoryLogger, Progress

    clock, run = StepClock(), _work(options).run_of(options, folder)
    plan = schedule(wait=options.warmup - 1, warmup=1, active=options.steps)
    with (
        tempfile.TemporaryDirectory(prefix="gptworks-bench-run-") as out,
        profile(activities=[ProfilerActivity.CPU], schedule=plan, with_flops=True, acc_events=True) as found,
    ):

        def passed(progress: Progress) -> None:
            clock(progress)
            found.step()

        run.execute(Path(out), MemoryLogger(), on_progress=passed)
    events: Iterable[Any] = found.key_averages()
    by_kind: Counter[str] = Counter()
    flop = 0.0
    for event in events:
        if event.key.startswith("ProfilerStep"):
            continue
        by_kind[group_of(event.key)] += event.self_cpu_time_total / 1e6 / options.steps
        if group_of(event.key) == "matrix products":
            flop += event.flops / options.steps
    return by_kind, clock.seconds[options.warmup - 1 :], flop


def report(options: Options, by_kind: Counter[str], seconds: list[float], flop: float) -> str:
    """The table, and the two ceilings."""
    import torch

    from gptcore.train.utilization import gemm_rate

    step, n_tokens = statistics.median(seconds), _work(options).sizes_of(options).n_tokens
    rows = [[kind, f"{spent:.3f}", f"{spent / step:.1%}"] for kind, spent in by_kind.most_common()]
    products, rate = by_kind["matrix products"], gemm_rate(torch.device("cpu"), torch.float32)
    return "\n\n".join(
        [
            table(["operations", "seconds a step", "share"], rows),
            f"step: {step:.3f} s median ({min(seconds):.3f}-{max(seconds):.3f}), {n_tokens / step:.1f} tokens/s, "
            "the profiler's own time included",
            f"products: {flop / 1e9:.1f} GFLOP a step at {flop / products / 1e9:.1f} GFLOP/s; "
            f"the fastest large product here reaches {rate / 1e9:.1f}",
            f"if all else took no time: {n_tokens / products:.1f} tokens/s; with every product at that rate, too: "
            f"{n_tokens / (flop / rate):.1f} tokens/s",
        ]
    )


def main() -> None:
    """Prepare, profile, print."""
    from gptcore.allocator import restart_with_huge_pages

    restart_with_huge_pages()
    parser = shared_parser(str(__doc__), steps=3)
    parser.add_argument(
        "--size", choices=(*pretrain.TITLES, "lora"), default="124m", help="what is trained (default 124m)"
    )
    parser.set_defaults(targets="qkv")  # of LoRA
    options = parse(parser, sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="gptworks-bench-") as folder:
        pretrain.prepare(options, Path(folder))
        sys.stdout.write(report(options, *profiled(options, Path(folder))) + "\n")


if __name__ == "__main__":
    main()
