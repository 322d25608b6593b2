"""Classification fine-tuning on the SMS Spam Collection: examples/s of ours and of the book's padding.

    python -m benchmarks.classify

GPT-2 124M's size with random weights; the last block, the final norm and a new head are trained, 8 rows a step. The
book pads every row to the longest of its training set (120 tokens).
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
    return Work(
        name="classify",
        title="Classification: SMS spam, GPT-2 124M, last block, norm and head trained, 8 rows a step",
        unit="examples/s",
        figure=lambda measured: measured.total_rate,
        implementations=(
            Implementation(
                "ours", "`Run.execute`, rows of similar length together", functools.partial(measure_ours, packed=False)
            ),
            Implementation(
                "ours-packed", "the same, rows packed without padding", functools.partial(measure_ours, packed=True)
            ),
            Implementation(
                "book",
                "GPT2LMHeadModel with a new head, sdpa, every row padded to the longest, logits of the last position",
                _padded,
                needs=("transformers",),
            ),
        ),
        prepare=_prepare,
        targets=(Target("figure", 5.0, "book"), Target("figure", 5.0, "book", ours="ours-packed")),
        notes=(
            "data: a random part of the book's balanced training set, the same rows for all; figures: all counted rows "
            "by all their time",
            "all: fp32, no dropout, clipping at 1, random weights",
        ),
    )


def measure_ours(options: Options, folder: Path, *, packed: bool) -> Measured:
    """A real run on the prepared messages."""
    from benchmarks.ours import gpt, measured_run, train_config
    from benchmarks.prepare import LABELS, TOKENIZER, classify_data, read_plan
    from gptcore.objectives import Classify
    from gptcore.run import Run
    from gptcore.transforms import Classifier

    plan, sizes = read_plan(folder), sizes_of(options)
    n_steps = len(plan["rows"]) // BATCH_SIZE
    run = Run(
        data=classify_data(folder, longest=plan["longest"]),
        objective=Classify(),
        tokenizer=folder / TOKENIZER,
        model=gpt(width=sizes.width, n_layers=sizes.n_layers, n_heads=sizes.n_heads, context_length=sizes.length),
        transforms=(Classifier(labels=LABELS, train="last_blocks", n_blocks=1),),
        train=train_config(n_steps=n_steps, batch_size=BATCH_SIZE, packed=packed),
        seed=options.seed,
    )
    return measured_run(run, warmup=options.warmup, items=plan["items"])


def _padded(options: Options, folder: Path) -> Measured:
    from benchmarks.peers.book_classifier import measure_padded

    return measure_padded(options, folder, sizes=sizes_of(options))


def _prepare(options: Options, folder: Path) -> None:
    from benchmarks.prepare import prepare_messages

    prepare_messages(options, folder, batch_size=BATCH_SIZE)


if __name__ == "__main__":
    main("benchmarks.classify", build, shared_parser(str(__doc__), steps=30))
