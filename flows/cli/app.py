"""``gptworks``: one subcommand per flow, and the commands for the models they leave.

Only what a command needs is imported when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from flows.cli import compare, export, judge, models, plan, retrain, serve, services, sweep, talk
from flows.cli.examples import epilog
from flows.cli.part_options import DataDirOption, WithParts
from flows.cli.stopping import stoppable
from flows.orchestrator.temporary_server import begin_server, leave_nothing
from flows.settings import read_settings
from flows.sources.parts import list_options
from flows.stages.every import STAGES
from gptcore.errors import ConfigError

app = typer.Typer(
    name="gptworks",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From raw text to a GPT-2-class language model: pretrain, fine-tune, adapt, compress, evaluate, compare.",
    epilog="Each command has examples: gptworks COMMAND --help",
)
PresetOption = Annotated[str, typer.Option("--preset", help="demo, book, or tiny to try the machinery.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting, as in pretrain.train.epochs=2; repeatable.")
]
CorpusOption = Annotated[
    list[Path] | None,
    typer.Option("--corpus", help="Own texts: files or folders of txt, md, jsonl, json, csv, tsv, parquet."),
]
InitOption = Annotated[
    str | None,
    typer.Option(
        "--init",
        help="Start from these weights instead of random ones: a checkpoint, a transformers folder, or hf:REPO.",
    ),
]
JudgeOption = Annotated[str | None, typer.Option("--judge", help="auto (use one if it answers), required or off.")]
JudgeModelOption = Annotated[str | None, typer.Option("--judge-model", help="Model tag on the Ollama server.")]
OptimizerOption = Annotated[
    str | None, typer.Option("--optimizer", help="Optimizer of every training: adamw, or muon with AdamW for the rest.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of all randomness.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Rebuild the output even if nothing has changed.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved settings, the plan and its estimated cost.")
]
NprocOption = Annotated[
    int, typer.Option("--nproc", min=1, help="Processes on this machine that train together, one for each GPU.")
]
ParallelOption = Annotated[
    Literal["ddp", "fsdp"],
    typer.Option("--parallel", help="A copy of the model in each process (ddp), or one sharded over them (fsdp)."),
]
NnodesOption = Annotated[int, typer.Option("--nnodes", min=1, help="Machines; the others run: gptworks join.")]
RdzvOption = Annotated[
    str | None, typer.Option("--rdzv", metavar="HOST:PORT", help="This machine's name and a port, for the others.")
]
RestartsOption = Annotated[
    int, typer.Option("--max-restarts", min=0, help="How often to restart all processes after a crash.")
]
RunnerOption = Annotated[
    Literal["threads", "dask", "ray"],
    typer.Option("--runner", help="Who prepares data and scores answers; dask and ray need their extra."),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="How many at once; by default one per core.")
]
LAUNCH = ("nproc", "parallel", "nnodes", "rdzv", "max_restarts")


def _flow_command(name: str) -> WithParts:
    def command(
        *,
        preset: PresetOption = "demo",
        sets: SetOption = None,
        data_dir: DataDirOption = None,
        corpus: CorpusOption = None,
        rows: Mapping[str, Path],
        init: InitOption = None,
        judge: JudgeOption = None,
        judge_model: JudgeModelOption = None,
        optimizer: OptimizerOption = None,
        seed: SeedOption = None,
        force: ForceOption = False,
        dry_run: DryRunOption = False,
        nproc: NprocOption = 1,
        parallel: ParallelOption = "ddp",
        nnodes: NnodesOption = 1,
        rdzv: RdzvOption = None,
        max_restarts: RestartsOption = 0,
        runner: RunnerOption = "threads",
        workers: WorkersOption = None,
    ) -> None:
        settings = read_settings()
        with leave_nothing(settings):  # refuse what cannot be before the flow begins
            server_answers = begin_server(settings) if not dry_run else None
            from flows.chain.request import OwnData, configuration
            from flows.launch.launch import Launch
            from flows.recipes.resolve import optimizer_overrides

            kinds = [] if optimizer is None else optimizer_overrides(optimizer)  # --set may set their fields
            given = {"pretrain.init": init, "evaluate.judge": judge, "evaluate.judge_model": judge_model, "seed": seed}
            chosen = (f"{path}={value}" for path, value in given.items() if value is not None)
            overrides = [*kinds, *(sets or []), *chosen]
            data = OwnData.of(corpus or [], rows)
            config = configuration(preset, overrides, data)
            here = {"nproc": nproc, "parallel": parallel, "runner": runner, "workers": workers}
            launch = Launch.model_validate({**here, "nnodes": nnodes, "rdzv": rdzv, "max_restarts": max_restarts})
            launch.check()
        if server_answers is None:
            models.print_plan(config, name, data_dir=data_dir)
            if _trains(name):
                Console().print(f"each training: {launch}", soft_wrap=True)
            return
        _run_flow(name, preset, overrides, data, data_dir, force, launch, server_answers)

    return WithParts(command, without=() if _trains(name) else LAUNCH)


def _trains(name: str) -> bool:
    return name == "pipeline" or STAGES[name].trains


def _run_flow(
    name: str,
    preset: Any,
    overrides: list[str],
    data: Any,
    data_dir: Path | None,
    force: bool,
    launch: Any,
    server_answers: Callable[[], None],
) -> None:
    from flows.pipeline import pipeline
    from flows.stage_flows import FLOWS

    # What a flow raises is reported once, by `main`; the flow run keeps Prefect's own lines.
    logging.getLogger("prefect.flow_runs").propagate = False
    flow: Any = pipeline if name == "pipeline" else FLOWS[name]
    folder = None if data_dir is None else data_dir.absolute()
    with stoppable(name):
        server_answers()
        summary = flow(preset, overrides, data, folder, force, launch)
    if name == "pipeline":
        _print_summary(summary)
        return
    if summary is None:
        raise ConfigError(f"the data has no rows for {name}; give some by {list_options()}")
    note = "unchanged" if summary["cached"] else f"{summary['seconds']:.1f} s"
    Console().print(f"{name}: {summary['path']} ({note}), MLflow run {summary['run_id']}", soft_wrap=True)


def join(
    rdzv: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="HOST:PORT that the leading command was given as --rdzv.")
    ],
    nproc: NprocOption = 1,
) -> None:
    """Give this machine's processes to a command on another one."""
    from flows.launch import machines

    with stoppable(f"the part of this machine in the command at {rdzv}"):
        machines.join(rdzv, nproc=nproc)
    Console().print(f"the command at {rdzv} has ended well")


def _print_summary(result: dict[str, Any]) -> None:
    settings = read_settings()
    console = models.table_console()
    table = Table("stage", "metric", title="pipeline", title_justify="left")
    table.add_column("value", justify="right", overflow="fold")
    table.add_column("seconds", justify="right")
    table.add_column("MLflow run", no_wrap=True)
    for row in result["stages"]:
        value = row["metric_value"]
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        seconds = "unchanged" if row["cached"] else f"{row['seconds']:.1f}"
        table.add_row(row["stage"], row["metric_name"], shown, seconds, row["run_id"] or "")
    console.print(table)
    for stage, reason in result["left_out"].items():
        console.print(f"left out:   {stage}, {reason}", soft_wrap=True)
    for sentence in result["unread"]:
        console.print(f"not used:   {sentence}", soft_wrap=True)
    program = Path(sys.argv[0]).parent / "mlflow"
    command = settings.mlflow_ui_command
    local = f"{program} {command.removeprefix('mlflow ')}" if program.is_file() else command
    console.print(f"{result['seconds']:.0f} s in all, pipeline run {result['run_id']}")
    console.print(f"MLflow UI:  {local}", soft_wrap=True)
    console.print(f"report:     {result['report']}", soft_wrap=True)


app.command("pipeline", help="Run the whole chain.", epilog=epilog("pipeline"))(_flow_command("pipeline"))
for _stage in STAGES.values():
    app.command(_stage.name, help=f"{_stage.sentence} Builds what it needs first.", epilog=epilog(_stage.name))(
        _flow_command(_stage.name)
    )
_COMMANDS = (
    *(join, talk.generate, talk.chat, serve.serve, export.export, models.runs, compare.compare),
    *(WithParts(sweep.sweep), plan.plan, retrain.retrain, retrain.promote, retrain.rollback, retrain.lineage),
    *(judge.fake_ollama, *services.COMMANDS, models.doctor),
)
for _call in _COMMANDS:
    _name = _call.__name__.replace("_", "-")
    app.command(_name, epilog=epilog(_name))(_call)
for _group in (judge.judge, retrain.data):
    app.add_typer(_group, epilog=epilog(str(_group.info.name)))
