"""Next-token training of a whole model: tokens/s and peak memory of ours, transformers and litgpt.

python -m benchmarks.pretrain --size 124m       # GPT-2 124M, 2 rows of 512 tokens
python -m benchmarks.pretrain --size 6x384      # 6 layers, width 384, 16 rows of 256 tokens
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measured import Measured
from benchmarks.options import Options, shared_parser
from benchmarks.sitting import main
from benchmarks.work import Implementation, Target, Work

if TYPE_CHECKING:
    from benchmarks.peers.causal_lm import Sizes
    from gptcore.run import Run

_SIZES = {
    "124m": {"width": 768, "n_layers": 12, "n_heads": 12, "batch_size": 2, "length": 512},
    "6x384": {"width": 384, "n_layers": 6, "n_heads": 6, "batch_size": 16, "length": 256},
    "smoke": {"width": 32, "n_layers": 2, "n_heads": 2, "batch_size": 2, "length": 32},
}
_TARGETS = {
    "124m": (
        Target("figure", 1.5, "transformers"),
        Target("figure", 1.35, "litgpt"),
        Target("memory", 0.6, "transformers"),
        Target("memory", 0.67, "litgpt"),
    ),
    "6x384": (
        Target("figure", 1.6, "transformers"),
        Target("figure", 1.6, "litgpt"),
        Target("memory", 0.5, "transformers"),
        Target("memory", 0.5, "litgpt"),
    ),
}
TITLES = {"124m": "GPT-2 124M, 2 rows × 512 tokens", "6x384": "6 layers, 6 heads, width 384, 16 rows × 256 tokens"}
"""Sizes that can be chosen."""


def sizes_of(options: Options) -> Sizes:
    """Model and batch; toy sizes in a smoke run."""
    from benchmarks.peers.causal_lm import Sizes

    return Sizes(**_SIZES["smoke" if options.smoke else options.size])


def build(options: Options) -> Work:
    """The work for these options."""
    loop = "plain loop, fp32, no dropout, clipping at 1"
    return Work(
        name=f"pretrain-{options.size}",
        title=f"Training: {TITLES[options.size]}, vocabulary 50,257, AdamW",
        unit="tokens/s",
        figure=lambda measured: measured.median_rate,
        implementations=(
            Implementation("ours", "`Run.execute`, fp32, no dropout, clipping at 1, every step logged", measure_ours),
            Implementation("transformers", f"GPT2LMHeadModel, sdpa, {loop}", _transformers, needs=("transformers",)),
            Implementation(
                "litgpt",
                f"GPT of litgpt's default (rotary positions, untied head: more parameters), {loop}",
                functools.partial(_litgpt, tied=False),
                needs=("litgpt",),
                in_litgpt=True,
            ),
            Implementation(
                "litgpt-tied",
                f"the same with --train.tie_embeddings, {loop}",
                functools.partial(_litgpt, tied=True),
                needs=("litgpt",),
                in_litgpt=True,
            ),
        ),
        prepare=prepare,
        targets=_TARGETS[options.size],
        notes=("data: Tiny Shakespeare in GPT-2's tokens; figures: median over the steps of a process",),
    )


def measure_ours(options: Options, folder: Path) -> Measured:
    """A real run on token windows."""
    from benchmarks.ours import measured_run

    items = [sizes_of(options).n_tokens] * options.steps
    return measured_run(run_of(options, folder), warmup=options.warmup, items=items)


def run_of(options: Options, folder: Path) -> Run:
    """That run."""
    from benchmarks.ours import gpt, train_config
    from benchmarks.prepare import TOKENIZER, TRAIN
    from gptcore.data.windows import TokenWindows
    from gptcore.objectives import NextToken
    from gptcore.run import Run

    sizes = sizes_of(options)
    return Run(
        data=TokenWindows(folder / TRAIN, context_length=sizes.length),
        objective=NextToken(),
        tokenizer=folder / TOKENIZER,
        model=gpt(width=sizes.width, n_layers=sizes.n_layers, n_heads=sizes.n_heads, context_length=sizes.length),
        train=train_config(n_steps=options.warmup + options.steps, batch_size=sizes.batch_size),
        seed=options.seed,
    )


def _transformers(options: Options, folder: Path) -> Measured:
    from benchmarks.peers.causal_lm import measure_transformers

    return measure_transformers(options, folder, sizes=sizes_of(options))


def _litgpt(options: Options, folder: Path, *, tied: bool) -> Measured:
    from benchmarks.peers.litgpt_lm import measure_litgpt

    return measure_litgpt(options, folder, sizes=sizes_of(options), tied=tied)


def prepare(options: Options, folder: Path) -> None:
    """Tokenizer and windows of real text."""
    from benchmarks.prepare import prepare_windows

    prepare_windows(options, folder)


if __name__ == "__main__":
    parser = shared_parser(str(__doc__), steps=5)
    parser.add_argument("--size", choices=tuple(TITLES), default="124m", help="model and batch (default 124m)")
    main("benchmarks.pretrain", build, parser)
