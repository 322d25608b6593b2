"""The commands for runs and this machine: runs, doctor."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.settings import read_settings
from gptcore.config import nearest
from gptcore.errors import ConfigError

if TYPE_CHECKING:
    from flows.stages.pipeline import Pipeline

CheckpointArgument = Annotated[
    str,
    typer.Argument(help="A checkpoint, a stage's output with one, a transformers folder, a GGUF file, or hf:REPO."),
]


def quiet_prefect() -> None:
    """Leave the terminal to progress bars and tables: only warnings and errors of Prefect's."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")


def table_console() -> Console:
    """A console for wide tables: a log file has no width to fit into."""
    return Console(width=None if sys.stdout.isatty() else 170)


def runs(
    action: Annotated[
        Literal["list", "sync"], typer.Argument(help="sync sends the runs that wait on this machine to MLflow.")
    ] = "list",
    stage: Annotated[str, typer.Option(help="Stage whose runs are listed, or pipeline.")] = "pipeline",
    limit: Annotated[int, typer.Option(help="Maximum number of runs.")] = 20,
) -> None:
    """List tracked runs, newest first, with their headline figures or why they have none; or send those that wait."""
    from flows.stages.every import STAGES
    from flows.tracking.runs import PREFIX, connect

    if action == "sync":
        _sync_runs()
        return
    known = ("pipeline", *STAGES)
    if stage not in known:
        raise ConfigError(f"unknown stage {stage!r}{nearest(stage, known)}")
    console, client = table_console(), connect(read_settings())
    experiment = client.get_experiment_by_name(f"{PREFIX}/{stage}")
    if experiment is None:
        console.print(f"no runs of {stage} yet")
        return
    found = client.search_runs([experiment.experiment_id], max_results=limit, order_by=["attributes.start_time DESC"])
    table = Table("run", "name", "started", "status", "figures")
    for run in found:
        shown = [f"{name} {value:.4g}" for name, value in sorted(run.data.metrics.items()) if _is_headline(name)]
        failure = run.data.tags.get(f"{PREFIX}.failure", "").partition("\n")[0]
        started = f"{datetime.fromtimestamp(run.info.start_time / 1000):%Y-%m-%d %H:%M}"
        text = failure or ", ".join(shown)
        table.add_row(run.info.run_id, run.info.run_name, started, run.info.status, Text(text))
    console.print(table)


def _sync_runs() -> None:
    from flows.tracking.runs import TrackingError
    from flows.tracking.sync import sync, waiting

    settings, console = read_settings(), table_console()
    before = {each.local_id: each for each in waiting(settings) if not each.owned}
    left = {each.local_id for each in sync(settings)}
    for local_id, run in before.items():
        state = "still waits" if local_id in left else "is in MLflow"
        console.print(f"{run.stage} {run.key}: {state} ({local_id})", soft_wrap=True)
    console.print(f"{len(before) - len(left)} of {len(before)} runs that waited are in MLflow now")
    if left:
        raise TrackingError(f"{len(left)} runs could not be sent to {settings.mlflow_uri}; see the warnings")


def _is_headline(name: str) -> bool:
    endings = ("val/perplexity", "test/accuracy", "test/rouge_l", "judge/mean", "int8/increase", "int4/increase")
    return name.endswith(endings) and "base/" not in name


def doctor(
    judge_model: Annotated[str | None, typer.Option(help="Judge model to look for instead of the default one.")] = None,
) -> None:
    """Check versions, folders, tracking store and judge; the exit code is 1 if something essential is missing."""
    settings, console = read_settings(), table_console()
    table = Table("check", "state", "detail")
    problems = 0
    for name in ("torch", "prefect", "mlflow", "fastapi", "tiktoken", "ollama"):
        table.add_row(name, "ok", importlib.metadata.version(name))
    free = shutil.disk_usage(settings.home if settings.home.exists() else Path.cwd()).free
    table.add_row("disk", "ok" if free > 2e9 else "low", f"{free / 1e9:.1f} GB free for {settings.home}")
    checks = (
        ("kernels", _check_kernels),
        ("MLflow", _check_mlflow),
        ("judge", partial(_check_judge, judge_model)),
        ("Prefect", _check_prefect),
    )
    for name, check in checks:
        state, detail = check()
        problems += state == "fails"
        table.add_row(name, state, detail)
    console.print(table)
    sys.exit(1 if problems else 0)


def _check_kernels() -> tuple[str, str]:
    from gptcore.kernels import Native, build_library

    try:
        kernels = Native(library := build_library())
    except ConfigError as error:
        return "absent", f"inference is slower without them: {error}"
    return "ok", f"{kernels.lanes}, {library}"


def _check_mlflow() -> tuple[str, str]:
    from flows.tracking.runs import connect

    settings = read_settings()
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        connect(settings)
    except Exception as error:
        return "fails", f"{settings.mlflow_uri}: {type(error).__name__}: {error}"
    return "ok", settings.mlflow_uri


def _check_judge(judge_model: str | None) -> tuple[str, str]:
    from eval.errors import EvalConfigError, EvalError, JudgeChanged, JudgeModelMissing
    from eval.judge.preflight import preflight_ollama
    from flows.stages.evaluate.recipe import EvaluateStage
    from flows.stages.judge.sitting import judge_specs

    config = EvaluateStage() if judge_model is None else EvaluateStage(judge_model=judge_model)
    [spec] = judge_specs(config, read_settings().ollama_host)
    try:
        model = preflight_ollama(spec.host, spec.model, options=spec.options)
    except EvalError as error:
        states = {JudgeModelMissing: "no model", JudgeChanged: "changed", EvalConfigError: "unfit"}
        return states.get(type(error), "absent"), str(error)
    text = f"{model.model} {model.digest[:12]} ({model.quantization}), Ollama {model.server_version} at {model.url}"
    if "thinking" in model.capabilities:
        return "thinks", (
            f"{text}; its thinking is switched off, and it is refused before the first item if its answers lose"
            " their form then; one that does not think is quicker: ollama pull llama3"
        )
    return "ok", text


def _check_prefect() -> tuple[str, str]:
    try:
        import prefect.server.api.server
    except Exception as error:
        return "fails", f"the server cannot be imported: {error}; install with constraints.txt"
    del prefect
    return "ok", os.environ.get("PREFECT_API_URL", "a server of its own for each command")


def print_plan(config: Pipeline, name: str, *, data_dir: Path | None) -> None:
    """The resolved configuration, and for each stage whether its output exists, and its estimated cost."""
    from flows.chain.plan import duration, plan

    console = Console()
    console.print_json(json.dumps(config.to_dict()))
    table = Table("stage", "plan", "estimated cost", "time")
    lines = plan(config, name, data_dir=data_dir)
    for line in lines:
        table.add_row(line.stage, line.state, line.cost, duration(line.seconds) if line.seconds else "")
    console.print(table)
    console.print(f"about {duration(sum(line.seconds for line in lines))} in all on the processors of this machine")
