"""Options: what every work takes from the command line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LITGPT_PYTHON = "GPTWORKS_LITGPT_PYTHON"
"""Environment variable: the interpreter of litgpt's own environment."""
_SMOKE_STEPS = 2


class Options(argparse.Namespace):
    """The parsed options; a work may add its own."""

    rounds: int
    steps: int
    warmup: int
    threads: int
    seed: int
    smoke: bool
    implementations: list[str]
    results: Path | None
    peer_optimizer: str
    litgpt_python: Path
    only: str | None
    data: Path | None
    turn: int


def shared_parser(description: str, *, steps: int, rounds: int = 3) -> argparse.ArgumentParser:
    """A parser with the options of every work.

    Args:
        description: the work's own words; the first line becomes the help's title.
        steps: default of ``--steps``.
        rounds: default of ``--rounds``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=positive, default=rounds, help=f"turns of each implementation (default {rounds})")
    add("--steps", type=positive, default=None, help=f"counted steps of a turn (default {steps})")
    add("--warmup", type=positive, default=2, help="steps before them that are not counted (default 2)")
    add("--threads", type=positive, default=cores(), help="threads of each process (default: all cores)")
    add("--seed", type=int, default=1, help="chooses rows and order")
    add("--smoke", action="store_true", help="toy sizes, one round: shows that it runs, the figures mean nothing")
    add("--implementations", nargs="+", default=[], metavar="NAME", help="measure these alone")
    add("--results", type=Path, default=None, help="folder of the reports (default benchmarks/results; smoke: none)")
    add(
        "--peer-optimizer",
        choices=("default", "fused"),
        default="default",
        help="torch.optim.AdamW in the peers' loops: as it is by default, or with fused=True",
    )
    add(
        "--litgpt-python",
        type=Path,
        default=Path(os.environ.get(LITGPT_PYTHON) or ROOT / ".venv-litgpt" / "bin" / "python"),
        help=f"interpreter of litgpt's environment (default: {LITGPT_PYTHON}, or what `make bench-peers` made)",
    )
    add("--only", default=None, help=argparse.SUPPRESS)  # in the measured process: which implementation it is
    add("--data", type=Path, default=None, help=argparse.SUPPRESS)  # in the measured process: what was prepared
    add("--turn", type=int, default=0, help=argparse.SUPPRESS)  # in the measured process: which round this is
    parser.set_defaults(default_steps=steps)
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> Options:
    """The options of a command line, the defaults of ``--smoke`` filled in."""
    options = parser.parse_args(argv, namespace=Options())
    if options.steps is None:
        options.steps = _SMOKE_STEPS if options.smoke else options.default_steps
    if options.smoke:
        options.rounds, options.warmup = 1, 1
    elif options.results is None:
        options.results = RESULTS
    return options


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
