"""Instruction fine-tuning on the book's 1,100 instructions: target tokens/s of ours, trl and a padded loop.

    python -m benchmarks.instruct

GPT-2 124M's size with random weights, 8 rows a step, Alpaca's prompt; only the response and its end are targets.
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

BATCH_SIZE = 8


def sizes_of(options: Options) -> Sizes:
    """GPT-2 124M; in a smoke run a toy."""
    from benchmarks.peers.causal_lm import Sizes

    width, n_layers, n_heads = (32, 2, 2) if options.smoke else (768, 12, 12)
    return Sizes(width=width, n_layers=n_layers, n_heads=n_heads, batch_size=BATCH_SIZE, length=1024)


def build(options: Options) -> Work:
    """The work for these options."""
    del options
    shuffled = "shuffled rows padded to the longest of the batch, prompts masked"
    return Work(
        name="instruct",
        title="Instruction tuning: GPT-2 124M, the book's instructions, 8 rows a step",
        unit="target tokens/s",
        figure=lambda measured: measured.total_rate,
        implementations=(
            Implementation(
                "ours", "`Run.execute`, rows of similar length together", functools.partial(measure_ours, packed=False)
            ),
            Implementation(
                "ours-packed", "the same, rows packed without padding", functools.partial(measure_ours, packed=True)
            ),
            Implementation(
                "trl",
                f"SFTTrainer, {shuffled}; its defaults but for fp32 and no activation checkpointing",
                _trl,
                needs=("trl", "transformers", "datasets"),
            ),
            Implementation(
                "transformers", f"GPT2LMHeadModel, sdpa, plain loop, {shuffled}", _loop, needs=("transformers",)
            ),
        ),
        prepare=_prepare,
        targets=tuple(
            Target("figure", 3.0, peer, ours=ours)
            for ours in ("ours", "ours-packed")
            for peer in ("trl", "transformers")
        ),
        notes=(
            "data: a random part of the instructions, the same rows for all; figures: all targets of the counted rows "
            "by all their time",
            "all: fp32, no dropout, clipping at 1, random weights",
        ),
    )


def measure_ours(options: Options, folder: Path, *, packed: bool) -> Measured:
    """A real run on the prepared instructions."""
    from benchmarks.ours import gpt, measured_run, train_config
    from benchmarks.prepare import TOKENIZER, instruction_data, read_plan
    from gptcore.objectives import NextToken
    from gptcore.run import Run

    plan, sizes = read_plan(folder), sizes_of(options)
    n_steps = len(plan["rows"]) // BATCH_SIZE
    run = Run(
        data=instruction_data(folder),
        objective=NextToken(),
        tokenizer=folder / TOKENIZER,
        model=gpt(width=sizes.width, n_layers=sizes.n_layers, n_heads=sizes.n_heads, context_length=sizes.length),
        train=train_config(n_steps=n_steps, batch_size=BATCH_SIZE, packed=packed),
        seed=options.seed,
    )
    return measured_run(run, warmup=options.warmup, items=plan["items"])


def _trl(options: Options, folder: Path) -> Measured:
    from benchmarks.peers.supervised import measure_trl

    return measure_trl(options, folder, sizes=sizes_of(options))


def _loop(options: Options, folder: Path) -> Measured:
    from benchmarks.peers.supervised import measure_loop

    return measure_loop(options, folder, sizes=sizes_of(options))


def _prepare(options: Options, folder: Path) -> None:
    from benchmarks.prepare import prepare_instructions

    prepare_instructions(options, folder, batch_size=BATCH_SIZE)


if __name__ == "__main__":
    main("benchmarks.instruct", build, shared_parser(str(__doc__), steps=12))
