"""Muon against AdamW at equal tokens: held-out bits per byte on Tiny Shakespeare.

    python -m benchmarks.optimizers

4 layers, width 192, a BPE of 1,024 trained on the training text, 8 rows of 256 tokens a step. Each round is another
seed of weights and order. Each optimizer's learning rate is chosen first, from a grid of three, by runs of the same
length on a seed that is not among the rounds'.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.measured import Measured
from benchmarks.options import Options, shared_parser
from benchmarks.report import table
from benchmarks.sitting import main
from benchmarks.work import Implementation, Rounds, Target, Work, spread

if TYPE_CHECKING:
    from gptcore.run import Run

RATES = {"adamw": (1e-3, 2e-3, 4e-3), "muon": (4e-3, 8e-3, 16e-3)}
"""The grids; both cover a factor of four around what short runs of other seeds liked best."""
_HELD_OUT_SHARE = 0.1
_EVALUATIONS = 8
_NEVER = 10**9
_FINAL = "bits_per_byte"


class Size(NamedTuple):
    """Model and batch."""

    width: int
    n_layers: int
    n_heads: int
    length: int
    """Tokens per row."""
    batch_size: int
    vocab_size: int

    @property
    def n_tokens(self) -> int:
        """Tokens per step."""
        return self.batch_size * self.length


def size_of(options: Options) -> Size:
    """Toy sizes in a smoke run."""
    return Size(32, 2, 2, 64, 16, 300) if options.smoke else Size(192, 4, 4, 256, 8, 1024)


def build(options: Options) -> Work:
    """The work for these options."""
    n_tokens = (options.warmup + options.steps) * size_of(options).n_tokens
    return Work(
        name="optimizers",
        title=f"Muon against AdamW: Tiny Shakespeare, 4 layers, width 192, {n_tokens:,} tokens",
        unit="held-out bits per byte",
        figure=lambda measured: float(measured.facts[_FINAL]),
        implementations=tuple(
            Implementation(name, what, functools.partial(measure, optimizer=name))
            for name, what in (
                ("adamw", "AdamW for everything"),
                ("muon", "Muon for the matrices of the blocks, AdamW for everything else, one learning rate"),
            )
        ),
        prepare=prepare,
        targets=(Target("figure", 1.0, "adamw", ours="muon", at_most=True),),
        notes=(
            "a round is a seed: first weights, order and number of tokens are the same for both",
            "the last tenth of the text is held out",
            f"learning rates from {', '.join(f'{name}: {rates}' for name, rates in RATES.items())} by a run on another "
            "seed; cosine to 5% after 10% warm-up, decay 0.1, fp32, no dropout, clipping at 1",
        ),
        extra=compared,
    )


def prepare(options: Options, folder: Path) -> None:
    """A BPE of the training text, and the shards of both parts."""
    from benchmarks.prepare import HELD_OUT, TOKENIZER, TRAIN, real_file
    from gptcore.data.corpus import write_shards
    from gptcore.tokenizer import train_bpe

    text = real_file("tiny-shakespeare").read_text(encoding="utf-8")
    cut = int(len(text) * (1 - _HELD_OUT_SHARE))
    tokenizer = train_bpe([text[:cut]], vocab_size=size_of(options).vocab_size)
    tokenizer.save(folder / TOKENIZER)
    write_shards([text[:cut]], tokenizer=tokenizer, folder=folder / TRAIN)
    write_shards([text[cut:]], tokenizer=tokenizer, folder=folder / HELD_OUT)


def measure(options: Options, folder: Path, *, optimizer: str) -> Measured:
    """A run with the chosen rate on the seed of this round; the first round chooses it."""
    from benchmarks.ours import measured_run
    from gptcore.train import MemoryLogger

    grid = _grid(options, folder, optimizer)
    rate = min(grid, key=lambda each: grid[each])
    seed, n_steps = options.seed + options.turn, options.warmup + options.steps
    run = _run(options, folder, optimizer, rate=float(rate), seed=seed, eval_every=max(1, n_steps // _EVALUATIONS))
    log, n_tokens = MemoryLogger(), size_of(options).n_tokens
    found = measured_run(run, warmup=options.warmup, items=[n_tokens] * options.steps, log=log)
    points = log.series("val/bits_per_byte")
    curve = [[step * n_tokens, value] for step, value in dict(points).items() if step is not None]
    told = {_FINAL: points[-1][1], "learning rate": float(rate), "curve": curve, "grid": grid}
    return Measured(found.seconds, found.items, found.peak_rss_mb, found.facts | told)


def _grid(options: Options, folder: Path, optimizer: str) -> dict[str, float]:
    """Learning rate -> bits per byte on the seed after the rounds'; kept for the rounds to come."""
    from benchmarks.ours import measured_run
    from gptcore.train import MemoryLogger

    kept = folder / f"grid-{optimizer}.json"
    if not kept.exists():
        grid = {}
        for rate in RATES[optimizer]:
            run, log = _run(options, folder, optimizer, rate=rate, seed=options.seed + options.rounds), MemoryLogger()
            measured_run(run, warmup=options.warmup, items=[0.0] * options.steps, log=log)
            grid[f"{rate:g}"] = log.series("val/bits_per_byte")[-1][1]
        kept.write_text(json.dumps(grid), encoding="utf-8")
    found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def _run(options: Options, folder: Path, optimizer: str, *, rate: float, seed: int, eval_every: int = _NEVER) -> Run:
    from benchmarks.prepare import HELD_OUT, TOKENIZER, TRAIN
    from gptcore.data.windows import TokenWindows
    from gptcore.models import GPTConfig
    from gptcore.objectives import NextToken
    from gptcore.run import Run
    from gptcore.train import Cosine, Muon, OptimizerConfig, TrainConfig

    size = size_of(options)
    return Run(
        data=TokenWindows(folder / TRAIN, context_length=size.length),
        held_out=TokenWindows(folder / HELD_OUT, context_length=size.length),
        objective=NextToken(),
        tokenizer=folder / TOKENIZER,
        model=GPTConfig(size.vocab_size, size.length, width=size.width, n_layers=size.n_layers, n_heads=size.n_heads),
        train=TrainConfig(
            steps=options.warmup + options.steps,
            batch_size=size.batch_size,
            optimizer={"adamw": OptimizerConfig, "muon": Muon}[optimizer](lr=rate),
            schedule=Cosine(warmup=0.1, final=0.05),
            keep="last",
            eval_every=eval_every,
            eval_samples=None,
            log_every=1,
            checkpoint_every=_NEVER,
        ),
        seed=seed,
    )


def compared(rounds: Rounds, path: Path | None) -> str:
    """Quality and speed side by side, the grids, the differences seed by seed, and the curves beside the report."""
    header = ["optimizer", "learning rate", "grid: bits per byte on the seed apart", "tokens/s", "MFU"]
    rows = [[name, *_row(measured)] for name, measured in rounds.items()]
    parts = [table(header, rows), _differences(rounds)]
    if path is not None:
        plot = path.with_name(f"{path.name}.png")
        draw(rounds, plot)
        parts.append(f"![held-out bits per byte over the tokens]({plot.name})")
    return "\n\n".join(filter(None, parts))


def _row(measured: Sequence[Measured]) -> list[str]:
    facts = measured[0].facts
    grid = ", ".join(f"{rate}: {value:.3f}" for rate, value in facts["grid"].items())
    speed, share = spread([m.median_rate for m in measured]), spread([m.facts["mfu"] for m in measured])
    return [f"{facts['learning rate']:g}", grid, speed.text(0), share.text(2)]


def _differences(rounds: Rounds) -> str:
    """Muon less AdamW, seed by seed, and where Muon has overtaken what AdamW reaches in the end."""
    ours, theirs = rounds.get("muon"), rounds.get("adamw")
    if not ours or not theirs:
        return ""
    each = [m.facts[_FINAL] - a.facts[_FINAL] for m, a in zip(ours, theirs, strict=False)]
    text = f"Muon less AdamW, bits per byte by seed: {', '.join(f'{value:+.3f}' for value in each)}"
    text += f"; mean {statistics.fmean(each):+.3f}."
    goal = statistics.fmean(a.facts[_FINAL] for a in theirs)
    passed = next((n_tokens for n_tokens, values in _curves(ours).items() if statistics.fmean(values) <= goal), None)
    if passed is None:
        return text
    whole = max(_curves(theirs))
    seconds = [n / statistics.median(m.median_rate for m in each) for n, each in ((passed, ours), (whole, theirs))]
    return (
        f"{text} What AdamW reaches after {whole:,} tokens ({seconds[1]:.0f} s of training), Muon has reached after "
        f"{passed:,} ({seconds[0]:.0f} s)."
    )


def _curves(measured: Sequence[Measured]) -> dict[int, list[float]]:
    """Tokens -> the held-out bits per byte of each seed."""
    found: dict[int, list[float]] = {}
    for each in measured:
        for n_tokens, value in each.facts["curve"]:
            found.setdefault(n_tokens, []).append(value)
    return found


def draw(rounds: Rounds, path: Path) -> None:
    """Means over the seeds, and the range between the best and the worst as a band."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, measured in rounds.items():
        curves = _curves(measured)
        values = list(curves.values())
        (line,) = axes.plot(list(curves), [statistics.fmean(v) for v in values], marker="o", markersize=3, label=name)
        axes.fill_between(
            list(curves), [min(v) for v in values], [max(v) for v in values], alpha=0.25, color=line.get_color()
        )
    axes.set(xlabel="training tokens", ylabel="held-out bits per byte")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main("benchmarks.optimizers", build, shared_parser(str(__doc__), steps=148))
