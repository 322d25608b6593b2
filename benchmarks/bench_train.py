"""Training speed and memory, side by side with transformers: same sizes, same batch, same optimizer, fp32.

    python benchmarks/bench_train.py --width 384 --layers 6 --heads 6 --batch 16 --length 256

Each implementation runs in a process of its own (its peak memory is its own), in turn, several rounds; one JSON line
per implementation with the median, the spread and the ratio to transformers.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

import torch


def main() -> None:
    """Run every implementation in turn, or one of them if told which."""
    arguments = _arguments()
    if arguments.only:
        sys.stdout.write(json.dumps(_measure(arguments)) + "\n")
        return
    names = ("ours", "transformers")
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rounds[name].append(json.loads(done.stdout.splitlines()[-1]))
    reference = statistics.median(r["tokens_per_second"] for r in rounds["transformers"])
    memory = statistics.median(r["peak_rss_mb"] for r in rounds["transformers"])
    for name in names:
        speeds = sorted(r["tokens_per_second"] for r in rounds[name])
        peak = statistics.median(r["peak_rss_mb"] for r in rounds[name])
        line: dict[str, Any] = {
            "benchmark": "train",
            "implementation": name,
            "model": f"{arguments.layers}L/{arguments.heads}H/{arguments.width}",
            "batch": f"B{arguments.batch} x T{arguments.length}",
            "vocabulary": arguments.vocabulary,
            "tokens_per_second": round(statistics.median(speeds), 1),
            "range": [round(speeds[0], 1), round(speeds[-1], 1)],
            "peak_rss_mb": round(peak),
            "speed_ratio": round(statistics.median(speeds) / reference, 2),
            "memory_ratio": round(peak / memory, 2),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        }
        sys.stdout.write(json.dumps(line) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=384, help="width of the model")
    parser.add_argument("--layers", type=int, default=6, help="blocks")
    parser.add_argument("--heads", type=int, default=6, help="attention heads")
    parser.add_argument("--vocabulary", type=int, default=50257, help="words")
    parser.add_argument("--batch", type=int, default=16, help="rows per step")
    parser.add_argument("--length", type=int, default=256, help="tokens per row")
    parser.add_argument("--steps", type=int, default=3, help="measured steps per round, after one that is not counted")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median is reported")
    parser.add_argument("--only", choices=("ours", "transformers"), help="measure one implementation in this process")
    return parser.parse_args()


def _measure(arguments: argparse.Namespace) -> dict[str, float]:
    from gptcore.train.measure import peak_rss_mb

    torch.manual_seed(0)
    step = _ours(arguments) if arguments.only == "ours" else _transformers(arguments)
    shape = (arguments.batch, arguments.length + 1)
    batches = [torch.randint(0, arguments.vocabulary, shape) for _ in range(arguments.steps + 1)]
    step(batches[0])
    seconds = []
    for batch in batches[1:]:
        started = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - started)
    n_tokens = arguments.batch * arguments.length
    return {"tokens_per_second": n_tokens / statistics.median(seconds), "peak_rss_mb": peak_rss_mb()}


def _ours(arguments: argparse.Namespace) -> Any:
    from gptcore.batch import Batch
    from gptcore.models import GPTConfig
    from gptcore.objectives import NextToken
    from gptcore.train import OptimizerConfig

    config = GPTConfig(arguments.vocabulary, arguments.length, arguments.width, arguments.layers, arguments.heads)
    model = config.build()
    optimizer, objective = OptimizerConfig().build(model), NextToken()

    def step(tokens: torch.Tensor) -> None:
        batch = Batch({"tokens": tokens[:, :-1]}, {"labels": tokens[:, 1:]})
        loss = objective(model, batch)
        (loss.total / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _transformers(arguments: argparse.Namespace) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=arguments.vocabulary,
        n_positions=arguments.length,
        n_embd=arguments.width,
        n_layer=arguments.layers,
        n_head=arguments.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, weight_decay=0.1)

    def step(tokens: torch.Tensor) -> None:
        model(input_ids=tokens[:, :-1], labels=tokens[:, :-1]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    main()
