"""How cost grows: tokens/s and peak memory at 1, 2 and 4 times the parameters, the context and the batch.

    python -m benchmarks.growth

From 6 layers of width 384 with GPT-2's vocabulary (30M parameters) at 4 rows of 256 tokens, one thing grows at a time.
The largest model is GPT-2 124M.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.measured import Measured
from benchmarks.options import Options, shared_parser
from benchmarks.report import table
from benchmarks.sitting import main
from benchmarks.work import Implementation, Rounds, Work, ratio, spread

ONE = "1x"
AXES = ("parameters", "context", "batch")
FACTORS = (2, 4)


class Size(NamedTuple):
    """Model and batch of a case."""

    width: int
    n_layers: int
    n_heads: int
    length: int
    """Tokens per row."""
    batch_size: int


_BASE = Size(384, 6, 6, length=256, batch_size=4)
_SMOKE = Size(32, 2, 2, length=32, batch_size=2)
_LARGER = {2: (512, 11, 8), 4: (768, 12, 12)}
_SMOKE_LARGER = {2: (48, 2, 2), 4: (64, 2, 2)}


def cases(*, smoke: bool = False) -> dict[str, Size]:
    """Every case by its name: ``1x``, ``parameters-2x``, ..., ``batch-4x``."""
    base, larger = (_SMOKE, _SMOKE_LARGER) if smoke else (_BASE, _LARGER)
    found = {ONE: base}
    for factor in FACTORS:
        width, n_layers, n_heads = larger[factor]
        found[name_of("parameters", factor)] = base._replace(width=width, n_layers=n_layers, n_heads=n_heads)
        found[name_of("context", factor)] = base._replace(length=base.length * factor)
        found[name_of("batch", factor)] = base._replace(batch_size=base.batch_size * factor)
    return found


def name_of(axis: str, factor: int) -> str:
    """The name of a case."""
    return ONE if factor == 1 else f"{axis}-{factor}x"


def build(options: Options) -> Work:
    """The work for these options."""
    return Work(
        name="growth",
        title="Growth of cost: parameters, context and batch at 1, 2 and 4 times",
        unit="tokens/s",
        figure=lambda measured: measured.median_rate,
        implementations=tuple(
            Implementation(
                name,
                f"{size.n_layers} layers, width {size.width}, {size.batch_size} rows × {size.length} tokens",
                functools.partial(measure_case, size=size),
            )
            for name, size in cases(smoke=options.smoke).items()
        ),
        prepare=_prepare,
        notes=(
            "data: Tiny Shakespeare in GPT-2's tokens (vocabulary 50,257); fp32, AdamW, no dropout, clipping at 1",
            "figures: median over the steps of a process",
        ),
        extra=grown,
    )


def measure_case(options: Options, folder: Path, *, size: Size) -> Measured:
    """A real run on token windows."""
    from benchmarks.ours import gpt, measured_run, train_config
    from benchmarks.prepare import TOKENIZER, TRAIN
    from gptcore.data.windows import TokenWindows
    from gptcore.objectives import NextToken
    from gptcore.run import Run

    run = Run(
        data=TokenWindows(folder / TRAIN, context_length=size.length),
        objective=NextToken(),
        tokenizer=folder / TOKENIZER,
        model=gpt(width=size.width, n_layers=size.n_layers, n_heads=size.n_heads, context_length=size.length),
        train=train_config(n_steps=options.warmup + options.steps, batch_size=size.batch_size),
        seed=options.seed,
    )
    return measured_run(run, warmup=options.warmup, items=[size.batch_size * size.length] * options.steps)


def grown(rounds: Rounds, path: Path | None) -> str:
    """The table of what each factor costs, and the plot beside the report."""
    if ONE not in rounds:
        return ""
    rows = [_row(axis, factor, rounds) for axis in AXES for factor in FACTORS if name_of(axis, factor) in rounds]
    header = ["grown", "million parameters", "tokens/s, × that of 1x", "peak RSS, × that of 1x", "MFU"]
    text = table(header, [_first_row(rounds[ONE]), *rows])
    if path is None:
        return text
    plot = path.with_name(f"{path.name}.png")
    draw(rounds, plot)
    return f"{text}\n\n![tokens/s and peak RSS over the factor]({plot.name})"


def _first_row(measured: Sequence[Measured]) -> list[str]:
    return ["1x", _parameters(measured), "1", "1", _utilization(measured)]


def _row(axis: str, factor: int, rounds: Rounds) -> list[str]:
    found, one = rounds[name_of(axis, factor)], rounds[ONE]
    speed = ratio([m.median_rate for m in found], [m.median_rate for m in one])
    memory = ratio([m.peak_rss_mb for m in found], [m.peak_rss_mb for m in one])
    return [f"{axis}, {factor}x", _parameters(found), speed.text(2), memory.text(2), _utilization(found)]


def _parameters(measured: Sequence[Measured]) -> str:
    return f"{measured[-1].facts['n_parameters'] / 1e6:.1f}"


def _utilization(measured: Sequence[Measured]) -> str:
    return spread([m.facts["mfu"] for m in measured]).text(2)


def draw(rounds: Rounds, path: Path) -> None:
    """Medians and ranges over the factor, a line for each thing that grows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    for axes, label, value in zip(
        figure.subplots(1, 2),
        ("tokens/s", "peak RSS, MB"),
        (lambda m: m.median_rate, lambda m: m.peak_rss_mb),
        strict=True,
    ):
        for axis in AXES:
            factors = [factor for factor in (1, *FACTORS) if name_of(axis, factor) in rounds]
            found = [spread([value(m) for m in rounds[name_of(axis, factor)]]) for factor in factors]
            below, above = [s.median - s.low for s in found], [s.high - s.median for s in found]
            axes.errorbar(factors, [s.median for s in found], yerr=(below, above), label=axis, marker="o", capsize=3)
        axes.set(xlabel="times the first case", ylabel=label, ylim=(0, 1.08 * axes.dataLim.ymax))
        axes.set_xscale("log", base=2)
        axes.set_xticks((1, *FACTORS), [str(factor) for factor in (1, *FACTORS)])
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def _prepare(options: Options, folder: Path) -> None:
    from benchmarks.prepare import prepare_windows

    prepare_windows(options, folder)


if __name__ == "__main__":
    main("benchmarks.growth", build, shared_parser(str(__doc__), steps=5))
