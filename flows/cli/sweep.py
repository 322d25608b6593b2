"""``gptworks sweep``. Only the options are here, so that ``--help`` is quick."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from flows.cli.models import table_console
from flows.cli.part_options import DataDirOption
from flows.orchestrator.temporary_server import begin_server
from flows.settings import read_settings


def sweep(
    stage: Annotated[str, typer.Argument(help="The stage that each trial runs.")],
    vary: Annotated[
        list[str], typer.Option("--vary", help="SETTING=a,b,c or SETTING=low:high[:log][:int]; repeatable.")
    ],
    *,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Number of trials for Optuna to propose; by default a grid.")
    ] = None,
    objective: Annotated[str, typer.Option(help="The stage's metric to optimize.")] = "val/loss",
    maximize: Annotated[
        bool, typer.Option("--maximize", help="Maximize the objective instead of minimizing it.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Concurrent trials.")] = 1,
    runner: Annotated[
        Literal["threads", "dask", "ray"], typer.Option(help="threads: this machine; the others need their extra.")
    ] = "threads",
    preset: Annotated[str, typer.Option(help="demo, book, or tiny to try the machinery.")] = "demo",
    sets: Annotated[list[str] | None, typer.Option("--set", help="A setting of every trial; repeatable.")] = None,
    data_dir: DataDirOption = None,
    corpus: Annotated[list[Path] | None, typer.Option(help="Own texts, as for pipeline.")] = None,
    rows: Mapping[str, Path],
) -> None:
    """Run one stage with many settings, and compare the results."""
    server_answers = begin_server(read_settings())
    from flows.chain.request import OwnData
    from flows.sweep.flow import Sweep
    from flows.sweep.flow import sweep as run

    logging.getLogger("prefect.flow_runs").propagate = False
    plan = Sweep(
        stage=stage,
        vary=vary,
        trials=trials,
        objective=objective,
        maximize=maximize,
        workers=workers,
        runner=runner,
    )
    data = OwnData.of(corpus or [], rows)
    server_answers()
    given: Any = preset  # the flow refuses what it does not know
    _print(run(plan, given, sets or [], data, None if data_dir is None else data_dir.absolute()), objective)


def _print(result: dict[str, Any], objective: str) -> None:
    paths = list(result["trials"][0]["values"])
    table = Table("trial", *paths, objective, "run of the stage")
    for done in result["trials"]:
        shown = done["error"] if done["objective"] is None else f"{done['objective']:.6g}"
        best = " (best)" if done["number"] == result["best"]["number"] else ""
        values = [done["values"][path] for path in paths]
        table.add_row(f"{done['number']}{best}", *values, shown, done["run_id"] or "")
    console = table_console()
    console.print(table)
    console.print(f"MLflow run {result['run_id']}", soft_wrap=True)
