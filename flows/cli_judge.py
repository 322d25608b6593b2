"""Commands about the judge. Only the options are here, so that ``--help`` is quick."""

from __future__ import annotations

import getpass
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from flows.cli_examples import JUDGE_EXAMPLES, epilog
from flows.settings import read_settings

if TYPE_CHECKING:
    from eval.stats import AgreementReport, Interval
    from flows.judge_calibration import Calibrated
    from flows.judge_runs import Compared

judge = typer.Typer(no_args_is_help=True, add_completion=False)
"""``gptworks judge ...``"""

Model = Literal["instruct", "base", "lora"]
ModelOfRunOption = Annotated[Model, typer.Option("--model", help="Whose responses in the run.")]
BaselineModelOption = Annotated[Model, typer.Option(help="Whose responses in the first run.")]
LabelsOption = Annotated[
    Path, typer.Option(help="csv with id and human (0 to 100); perhaps judge, response and reference.")
]
RunOption = Annotated[str | None, typer.Option("--run", help="Evaluation whose items and judge's scores are taken.")]
SeedOption = Annotated[int, typer.Option(help="Seed of what is drawn.")]


@judge.command(epilog=epilog("compare", JUDGE_EXAMPLES))
def compare(
    baseline: Annotated[str, typer.Argument(metavar="RUN", help="MLflow run that is compared with.")],
    candidate: Annotated[str, typer.Argument(metavar="RUN", help="MLflow run that may be better.")],
    model: ModelOfRunOption = "instruct",
    baseline_model: BaselineModelOption = "instruct",
    seed: SeedOption = 1,
) -> None:
    """Say whether the second run is better than the first on the same items, by the same judge."""
    from flows import judge_runs

    settings = read_settings()
    first = judge_runs.load_run(settings, baseline, model=baseline_model)
    second = judge_runs.load_run(settings, candidate, model=model)
    _print_comparison(judge_runs.compare(settings, baseline=first, candidate=second, seed=seed))


@judge.command(epilog=epilog("calibrate", JUDGE_EXAMPLES))
def calibrate(
    labels: LabelsOption,
    run: RunOption = None,
    model: ModelOfRunOption = "instruct",
    seed: SeedOption = 1,
) -> None:
    """Compare a judge's scores with people's and accept or reject it; the exit code is 1 if it is rejected."""
    from flows import judge_calibration
    from flows.judge_labels import read_labels
    from flows.judge_runs import load_run

    settings, given = read_settings(), read_labels(labels)
    judged = None if run is None else load_run(settings, run, model=model)
    result = judge_calibration.calibrate_labels(given, run=judged, seed=seed)
    _print_calibration(result)
    if judged is not None:
        run_id = judge_calibration.log_calibration(settings, result, run=judged, labels=given, seed=seed)
        Console().print(f"MLflow run {run_id}", soft_wrap=True)
    sys.exit(0 if result.acceptance.accepted else 1)


@judge.command(epilog=epilog("label", JUDGE_EXAMPLES))
def label(
    run: Annotated[str, typer.Option("--run", help="Evaluation whose items are scored.")],
    out: Annotated[Path, typer.Option(help="csv file to add to.")],
    model: ModelOfRunOption = "instruct",
    limit: Annotated[int | None, typer.Option(min=1, help="So many items, drawn at random; by default all.")] = None,
    rater: Annotated[str | None, typer.Option(help="Who scores; by default the user's name.")] = None,
    seed: SeedOption = 1,
) -> None:
    """Score answers in the terminal, blind and in a random order; go on with the same command."""
    from flows.judge_labels import Session, label_items
    from flows.judge_runs import load_run

    console = Console()
    rows = load_run(read_settings(), run, model=model).rows
    session = Session(
        out,
        rater or getpass.getuser(),
        ask=lambda question: console.input(question, markup=False),
        tell=lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
    )
    n = label_items(rows, session, seed=seed, limit=limit)
    console.print(f"{n} of {limit or len(rows)} items have a score by {session.rater}: {out}", soft_wrap=True)


def _print_comparison(result: Compared) -> None:
    found, console = result.comparison, Console()
    invalid = result.invalid_because
    if invalid:
        console.print(f"[bold red]judge not validated[/], take no verdict from this: {'; '.join(invalid)}")
    needs = "" if found.items_needed is None else f" (needs about {found.items_needed:,} items)"
    console.print(f"[bold]{found.verdict}[/]{needs if found.verdict == 'not distinguishable' else ''}")
    paired, table = found.paired, Table("figure", "value", "meaning")
    rows = (
        ("difference", f"{paired.difference:+.2f} points", f"candidate minus baseline over {paired.n} items"),
        ("95% interval", f"{paired.low:+.2f} to {paired.high:+.2f}", "paired bootstrap over the items"),
        ("p", f"{found.p_adjusted:.4f}", "sign-flip permutation test"),
        ("detectable", f"{paired.minimum_detectable:.2f} points", "what so many items show with 80% power"),
        ("bounds", f"{found.bound_low:+.2f} to {found.bound_high:+.2f}", f"with the {found.n_unscored} unscored"),
        (
            "passing",
            f"+{found.passes.gained} -{found.passes.lost}",
            f"at 60 points; McNemar p {found.passes.p_value:.3f}",
        ),
        ("Wilcoxon p", f"{found.wilcoxon_p:.4f}", "secondary: about medians"),
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"MLflow run {result.run_id}", soft_wrap=True)


def _print_calibration(result: Calibrated) -> None:
    console, found = Console(), result.calibration
    table = Table("scorer", "items", "n", "Spearman", "Kendall", "kappa (pass)", "kappa", "agree (pass)")
    for items, own, others in (
        ("all", found.judge, found.baselines),
        ("answer is not the reference", found.judge_hard, found.baselines_hard),
    ):
        for scorer, report in [("judge", own), *others.items()]:
            if report is not None:
                table.add_row(scorer, items, str(report.n), *_figures(report))
    console.print(table)
    if not result.has_texts:
        console.print("no columns response and reference: no baselines, and hard items are not told from easy ones")
    checks = Table("demand", "value", "bound", "")
    for check in result.acceptance.checks:
        passed = "[green]met[/]" if check.passed else f"[red]not met[/]: {check.meaning}"
        checks.add_row(check.name, f"{check.value:.3g}", f"{check.relation} {check.bound:.3g}", passed)
    console.print(checks)
    if not result.has_controls:
        console.print("controls were not part of this; each evaluation weighs them by itself (or name one: --run)")
    if result.corrected is not None:
        raw, moved = result.corrected.judge, result.corrected.corrected
        console.print(
            f"mean: {raw.mean:.1f} by the judge, {moved.mean:.1f} ({moved.low:.1f} to {moved.high:.1f}) where the"
            f" {moved.n} labels put it, if their items were drawn at random",
            soft_wrap=True,
        )
    console.print("[bold green]accepted[/]" if result.acceptance.accepted else "[bold red]rejected[/]")


def _figures(report: AgreementReport) -> list[str]:
    def shown(one: Interval) -> str:
        return "-" if math.isnan(one.mean) else f"{one.mean:.2f} ({one.low:.2f} to {one.high:.2f})"

    return [shown(one) for one in (report.spearman, report.kendall, report.pass_kappa, report.kappa, report.same_side)]


HostOption = Annotated[str, typer.Option(help="Address to listen on.")]
PortOption = Annotated[int, typer.Option(help="0 takes a free one.")]
ScenarioOption = Annotated[str, typer.Option(help="What every request meets; --list tells them all.")]
DelayOption = Annotated[float, typer.Option(help="Seconds that an answer takes.")]
ModelOption = Annotated[str, typer.Option(help="The model that it has.")]
ListOption = Annotated[bool, typer.Option("--list", help="Print the scenarios and end.")]


def fake_ollama(
    host: HostOption = "127.0.0.1",
    port: PortOption = 11434,
    scenario: ScenarioOption = "score",
    delay: DelayOption = 0.0,
    model: ModelOption = "llama3:latest",
    list_scenarios: ListOption = False,
) -> None:
    """Serve an Ollama without a model until Ctrl-C, and say how many answers were asked."""
    from eval.testing.fake_ollama import SCENARIOS, serve

    console = Console()
    if list_scenarios:
        table = Table("scenario", "what a request meets")
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
        on_start=lambda fake: console.print(f"{fake.model} ({scenario}) answers at {fake.url}; Ctrl-C ends it"),
    )
    console.print(f"{len(fake.calls)} answers asked")
