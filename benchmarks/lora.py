"""LoRA of rank 8 on GPT-2 124M's size: tokens/s and peak memory of ours and peft, the same layers adapted.

python -m benchmarks.lora                   # the query/key/value projections, peft's default for GPT-2
python -m benchmarks.lora --targets all     # every linear layer of the blocks
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measured import Measured
from benchmarks.options import Options, shared_parser
from benchmarks.sitting import main
from benchmarks.work import Implementation, Target, Work

if TYPE_CHECKING:
    from benchmarks.peers.causal_lm import Sizes
    from gptcore.run import Run

RANK = 8
_OURS = {"qkv": ("qkv",), "all": ("qkv", "out", "up", "down")}
_PEFT = {"qkv": ("c_attn",), "all": ("c_attn", "c_proj", "c_fc")}


def sizes_of(options: Options) -> Sizes:
    """GPT-2 124M, 8 rows of 128 tokens; in a smoke run a toy."""
    from benchmarks.peers.causal_lm import Sizes

    width, n_layers, n_heads = (32, 2, 2) if options.smoke else (768, 12, 12)
    return Sizes(width=width, n_layers=n_layers, n_heads=n_heads, batch_size=8, length=16 if options.smoke else 128)


def build(options: Options) -> Work:
    """The work for these options."""
    adapted = ", ".join(_PEFT[options.targets])
    return Work(
        name=f"lora-{options.targets}",
        title=f"LoRA: rank {RANK} on {adapted} of GPT-2 124M, 8 rows × 128 tokens",
        unit="tokens/s",
        figure=lambda measured: measured.median_rate,
        implementations=(
            Implementation("ours", f"`Run.execute` with LoRA on {', '.join(_OURS[options.targets])}", measure_ours),
            Implementation(
                "peft", f"LoraConfig on {adapted}, GPT2LMHeadModel, sdpa, plain loop", _peft, needs=("peft",)
            ),
        ),
        prepare=_prepare,
        targets=(Target("figure", 1.4, "peft"), Target("memory", 0.7, "peft")),
        notes=(
            "data: Tiny Shakespeare in GPT-2's tokens; figures: median over the steps of a process",
            "all: fp32, no dropout, clipping at 1, random weights, AdamW",
        ),
    )


def run_of(options: Options, folder: Path) -> Run:
    """The run of ours, on token windows."""
    from benchmarks.ours import gpt, train_config
    from benchmarks.prepare import TOKENIZER, TRAIN
    from gptcore.data.windows import TokenWindows
    from gptcore.objectives import NextToken
    from gptcore.run import Run
    from gptcore.transforms import LoRA

    sizes = sizes_of(options)
    return Run(
        data=TokenWindows(folder / TRAIN, context_length=sizes.length),
        objective=NextToken(),
        tokenizer=folder / TOKENIZER,
        model=gpt(width=sizes.width, n_layers=sizes.n_layers, n_heads=sizes.n_heads, context_length=sizes.length),
        transforms=(LoRA(rank=RANK, alpha=2.0 * RANK, targets=_OURS[options.targets]),),
        train=train_config(n_steps=options.warmup + options.steps, batch_size=sizes.batch_size),
        seed=options.seed,
    )


def measure_ours(options: Options, folder: Path) -> Measured:
    """A real run."""
    from benchmarks.ours import measured_run

    items = [sizes_of(options).n_tokens] * options.steps
    return measured_run(run_of(options, folder), warmup=options.warmup, items=items)


def _peft(options: Options, folder: Path) -> Measured:
    from benchmarks.peers.causal_lm import measure_peft

    return measure_peft(options, folder, sizes=sizes_of(options), rank=RANK, targets=_PEFT[options.targets])


def _prepare(options: Options, folder: Path) -> None:
    from benchmarks.prepare import prepare_windows

    prepare_windows(options, folder)


if __name__ == "__main__":
    parser = shared_parser(str(__doc__), steps=6)
    parser.add_argument("--targets", choices=tuple(_OURS), default="qkv", help="adapted layers (default qkv)")
    main("benchmarks.lora", build, parser)
