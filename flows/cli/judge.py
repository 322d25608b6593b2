"""Commands about the judge. Only the options are here, so that ``--help`` is quick."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from flows.cli.examples import JUDGE_EXAMPLES, epilog
from flows.cli.judge_tables import print_calibration, print_comparison, print_side_by_side
from flows.settings import read_settings
from gptcore.errors import ConfigError

if TYPE_CHECKING:
    from flows.judged_runs.pairs import Asking, SideBySide
    from flows.judged_runs.runs import JudgedRun
    from flows.settings import Settings

_ABOUT = "Compare and rank judged runs, calibrate the judge, label."
judge = typer.Typer(name="judge", help=_ABOUT, no_args_is_help=True, add_completion=False)
"""``gptworks judge ...``"""

Model = Literal["instruct", "base", "lora"]
ModelOfRunOption = Annotated[Model, typer.Option("--model", help="Whose responses in the run.")]
RunOption = Annotated[str | None, typer.Option("--run", help="Evaluation whose items and judge scores are used.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the random draws.")]
JudgeModelOption = Annotated[
    str | None, typer.Option(help="Judge model; by default the one that scored the last run, by its digest.")
]
JudgeUrlOption = Annotated[str | None, typer.Option(help="Address of its server; by default that of evaluations.")]
ConcurrencyOption = Annotated[int, typer.Option(min=1, help="Requests at once.")]


@judge.command(epilog=epilog("compare", JUDGE_EXAMPLES))
def compare(
    baseline: Annotated[str, typer.Argument(metavar="RUN", help="Baseline MLflow run.")],
    candidate: Annotated[str, typer.Argument(metavar="RUN", help="Candidate MLflow run.")],
    model: ModelOfRunOption = "instruct",
    baseline_model: Annotated[Model, typer.Option(help="Whose responses in the first run.")] = "instruct",
    pairwise: Annotated[
        bool, typer.Option("--pairwise", help="Ask a judge which answer is better, in both orders, instead of scores.")
    ] = False,
    judge_model: JudgeModelOption = None,
    judge_url: JudgeUrlOption = None,
    concurrency: ConcurrencyOption = 1,
    seed: SeedOption = 1,
) -> None:
    """Test whether the second run is significantly better than the first on the same items, by the same judge."""
    from flows.judged_runs import runs as judge_runs
    from flows.judged_runs.pairs import Asking

    settings = read_settings()
    first = judge_runs.load_run(settings, baseline, model=baseline_model)
    second = judge_runs.load_run(settings, candidate, model=model)
    if pairwise:
        asking = Asking(judge_model, judge_url, concurrency, seed)
        print_side_by_side(_side_by_side(settings, [first, second], asking))
    else:
        print_comparison(judge_runs.compare(settings, baseline=first, candidate=second, seed=seed))


@judge.command(epilog=epilog("rank", JUDGE_EXAMPLES))
def rank(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN[:MODEL]...", help="MLflow runs; :base or :lora for other responses.")
    ],
    judge_model: JudgeModelOption = None,
    judge_url: JudgeUrlOption = None,
    concurrency: ConcurrencyOption = 1,
    seed: SeedOption = 1,
) -> None:
    """Have a judge compare each pair of runs, in both orders, and rank them by strength (Bradley-Terry)."""
    from flows.judged_runs.pairs import Asking
    from flows.judged_runs.runs import load_run

    settings, sides = read_settings(), [one.partition(":") for one in runs]
    loaded = [load_run(settings, run, model=model or "instruct") for run, _, model in sides]
    print_side_by_side(_side_by_side(settings, loaded, Asking(judge_model, judge_url, concurrency, seed)))


@judge.command(epilog=epilog("calibrate", JUDGE_EXAMPLES))
def calibrate(
    labels: Annotated[
        Path, typer.Option(help="csv with id and human (0 to 100); perhaps judge, response and reference.")
    ],
    run: RunOption = None,
    model: ModelOfRunOption = "instruct",
    baseline: Annotated[
        str | None,
        typer.Option(metavar="RUN[:MODEL]", help="A second, labelled run: the judge sees both side by side as well."),
    ] = None,
    baseline_labels: Annotated[Path | None, typer.Option(help="csv with people's scores of the second run.")] = None,
    judge_url: JudgeUrlOption = None,
    seed: SeedOption = 1,
) -> None:
    """Compare a judge's scores with people's and accept or reject it; the exit code is 1 if it is rejected."""
    from flows.judged_runs import calibration as judge_calibration
    from flows.judged_runs.labels import read_labels
    from flows.judged_runs.pairs import Asking
    from flows.judged_runs.runs import load_run

    settings, given = read_settings(), read_labels(labels)
    judged = None if run is None else load_run(settings, run, model=model)
    pairs = None
    if baseline is not None or baseline_labels is not None:
        if judged is None or baseline is None or baseline_labels is None:
            raise ConfigError("--baseline and --baseline-labels go together, beside --run: two runs, both labelled")
        other, _, whose = baseline.partition(":")
        first = load_run(settings, other, model=whose or "instruct")
        shown = _side_by_side(settings, [first, judged], Asking(url=judge_url, seed=seed))
        pairs = judge_calibration.pair_evidence(given, read_labels(baseline_labels), shown=shown, seed=seed)
    result = judge_calibration.calibrate_labels(given, run=judged, seed=seed, pairwise=pairs)
    print_calibration(result)
    if judged is not None:
        run_id = judge_calibration.log_calibration(settings, result, run=judged, labels=given, seed=seed)
        Console().print(f"MLflow run {run_id}", soft_wrap=True)
    sys.exit(0 if result.acceptance.accepted else 1)


@judge.command(epilog=epilog("label", JUDGE_EXAMPLES))
def label(
    run: Annotated[str, typer.Option("--run", help="Evaluation whose items are scored.")],
    out: Annotated[Path, typer.Option(help="csv file to add to.")],
    model: ModelOfRunOption = "instruct",
    limit: Annotated[int | None, typer.Option(min=1, help="Number of random items; by default all.")] = None,
    rater: Annotated[str | None, typer.Option(help="Who scores; by default the user's name.")] = None,
    seed: SeedOption = 1,
) -> None:
    """Score answers in the terminal, blind and in a random order; the same command resumes."""
    from flows.judged_runs.labels import Session, label_items
    from flows.judged_runs.runs import load_run

    console = Console()
    rows = load_run(read_settings(), run, model=model).rows
    session = Session(
        out,
        rater or getpass.getuser(),
        ask=lambda question: console.input(question, markup=False),
        show=lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
    )
    n = label_items(rows, session, seed=seed, limit=limit)
    console.print(f"{n} of {limit or len(rows)} items have a score by {session.rater}: {out}", soft_wrap=True)


def _side_by_side(settings: Settings, runs: list[JudgedRun], asking: Asking) -> SideBySide:
    from flows.judged_runs.pairs import side_by_side
    from flows.progress import progress_bar

    with progress_bar("judge") as on_progress:
        return side_by_side(settings, runs, asking=asking, on_progress=on_progress)


def fake_ollama(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 11434,
    scenario: Annotated[str, typer.Option(help="Scenario of every request; --list prints them all.")] = "score",
    delay: Annotated[float, typer.Option(help="Latency of an answer in seconds.")] = 0.0,
    model: Annotated[str, typer.Option(help="Model that it serves.")] = "llama3:latest",
    also: Annotated[list[str] | None, typer.Option(help="A further model, for a panel; repeatable.")] = None,
    list_scenarios: Annotated[bool, typer.Option("--list", help="Print the scenarios and exit.")] = False,
) -> None:
    """Serve a fake Ollama without a model until Ctrl-C, then print how many answers were requested."""
    from eval.testing.fake_ollama import SCENARIOS, serve

    console = Console()
    if list_scenarios:
        table = Table("scenario", "what happens to a request")
        for name, what in SCENARIOS.items():
            table.add_row(name, what)
        console.print(table)
        return
    fake = serve(
        host=host,
        port=port,
        scenario=scenario,
        delay=delay,
        model=model,
        also=also or (),
        on_start=lambda fake: console.print(
            f"{', '.join(fake.digests)} ({scenario}) answers at {fake.url}; Ctrl-C ends it"
        ),
    )
    console.print(f"{len(fake.calls)} answers requested")
