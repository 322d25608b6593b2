"""A sweep: one stage made again and again with other settings, and what came of it side by side in MLflow.

The experiment ``gptworks/sweep`` holds a run for each sweep and, below it, one for each trial, with nothing but the
varied settings as params and one metric, ``objective``: select the trials and open the parallel coordinates. Each
trial's stage has its own run in its own experiment, as ever, and its output stays in the store: a trial that was made
before, by whatever command, costs nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.futures import PrefectFuture, as_completed
from pydantic import BaseModel, ConfigDict, Field

from flows.chain.request import OwnData, Preset, configuration
from flows.launch.task_runners import Runner, task_runner
from flows.orchestrator.flow_run import check_worker_home, prefect_tags, publish_markdown
from flows.orchestrator.running import present
from flows.settings import Settings, environment, read_settings
from flows.stages.every import STAGES
from flows.store import stage_key
from flows.sweep.space import Proposer, Values, best, parse_dimension, propose
from flows.tracking.logger import MlflowLogger
from flows.tracking.notes import NOTE
from flows.tracking.runs import PREFIX, stage_run
from gptcore.config import nearest
from gptcore.errors import ConfigError, GptcoreError, InterruptedRun
from gptcore.files import write_json
from gptcore.train.logger import read_history

ROOT = Path(__file__).resolve().parents[1]

Trial = dict[str, Any]
"""``number``, ``values``, ``objective`` (None if it failed), ``run_id`` of its stage, ``error``."""


class Sweep(BaseModel):
    """What is varied, and what is wanted."""

    model_config = ConfigDict(extra="forbid")

    stage: str = Field(default="pretrain", description="The stage that is made in each trial")
    vary: list[str] = Field(description="path=a,b,c or path=low:high[:log][:int]; each a setting")
    trials: int | None = Field(
        default=None, ge=1, description="Number of trials that Optuna proposes; without it, a grid"
    )
    objective: str = Field(default="val/loss", description="The stage's metric that is to be best")
    maximize: bool = Field(default=False, description="Whether more is better")
    workers: int = Field(default=1, ge=1, description="Trials at once")
    runner: Runner = Field(default="threads", description="Where trials run: this machine, or a cluster")


class SweepError(GptcoreError):
    """All trials failed."""

    exit_code = 12


@flow(
    name="sweep", description="Make one stage with many settings, by a grid or a search, and compare what came of it."
)
def sweep(
    plan: Sweep,
    preset: Preset = "demo",
    overrides: list[str] | None = None,
    data: OwnData | None = None,
    data_dir: Path | None = None,
) -> dict[str, Any]:
    """Run the trials.

    Args:
        plan: what is varied.
        preset: demo, book or tiny.
        overrides: settings of every trial.
        data: own files instead of the preset's data.
        data_dir: folder with the catalogued data sets, instead of downloading them.

    Returns:
        ``run_id`` of the sweep, ``trials``, and ``best``, one of them.
    """
    check_worker_home()
    base = configuration(preset, overrides or [], data)
    space, settings = _open_space(plan, preset, overrides or [], data, seed=base.seed), read_settings()
    key = stage_key(
        "sweep", version="1", config={"base": base.to_dict(), **plan.model_dump(include=_DECIDING)}, inputs={}
    )
    job = {
        "stage": plan.stage,
        "preset": preset,
        "overrides": overrides or [],
        "data": None if data is None else data.model_dump(mode="json"),
        "data_dir": None if data_dir is None else str(data_dir),
    }
    tags = {f"{PREFIX}.preset": preset, f"{PREFIX}.sweep.stage": plan.stage, **prefect_tags()}
    name, params = f"sweep-{plan.stage}-{key[:8]}", plan.model_dump(mode="json")
    tags[f"{PREFIX}.home"] = str(settings.home)
    with (
        present(settings.home),
        stage_run(settings, stage="sweep", name=name, key=key, params=params, tags=tags) as log,
    ):
        record = settings.home / "sweeps" / key / "trials.jsonl"
        trials = _run(plan, space, job, record, log.local_id)
        found = best(trials, maximize=plan.maximize)
        _log(log, plan, trials, found)
        if found is None:
            raise SweepError(
                f"all {len(trials)} trials failed; the first one: {trials[0]['error'] if trials else 'none'}"
            )
        record.unlink()
    return {"run_id": log.run_id, "trials": trials, "best": dict(found)}


_DECIDING = {"stage", "vary", "trials", "objective", "maximize"}
"""What makes a sweep another one; the rest is where and how quickly it runs."""


@task(name="trial", task_run_name="trial-{number}", retries=0)
def trial(number: int, values: Values, job: dict[str, Any], objective: str, parent: str, threads: int) -> Trial:
    """One trial; an error of the stage is its result, so that the others continue.

    Raises:
        InterruptedRun: it was stopped.
    """
    settings = read_settings()
    done: Trial = {"number": number, "values": values, "objective": None, "run_id": None, "error": ""}
    key = stage_key("trial", version="1", config={"job": job, "values": values}, inputs={"sweep": parent})
    try:
        with stage_run(
            settings, stage="sweep", name=f"trial-{number:03d}", key=key, params=values, parent_run_id=parent
        ) as log:
            made = _in_a_process(settings, {**job, "overrides": [*job["overrides"], *_as_overrides(values)]}, threads)
            if objective not in made["metrics"]:
                nearby = nearest(objective, made["metrics"])
                raise ConfigError(f"{job['stage']} has no metric {objective!r}{nearby}")
            done |= {"objective": float(made["metrics"][objective]), "run_id": made["run_id"]}
            log.log_metrics({"objective": done["objective"]})
            log.set_tags({f"{PREFIX}.run.{job['stage']}": made["run_id"], f"{PREFIX}.key.{job['stage']}": made["key"]})
    except InterruptedRun:
        raise
    except GptcoreError as error:
        done["error"] = f"{type(error).__name__}: {error}"
    return done


def _in_a_process(settings: Settings, job: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Have ``flows.sweep.trial`` make it.

    Raises:
        InterruptedRun: it was stopped.
        GptcoreError: it failed.
    """
    folder = settings.home / "sweeps" / "jobs" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    write_json(folder / "job.json", job)
    environ = {**environment(settings), **os.environ, "OMP_NUM_THREADS": str(threads)}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "flows.sweep.trial", str(folder / "job.json"), str(folder / "result.json")]
    # its standard input ends with this process, which is how it learns of that
    with (
        (folder / "output.log").open("wb") as output,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environ) as process,
    ):
        code = process.wait()
    try:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GptcoreError(f"the trial's process ended with code {code} without a result; see {folder}") from None
    if "error" in result:
        text = f"{result['error']['type']}: {result['error']['text']}"
        kind = InterruptedRun if result["error"]["type"] in ("InterruptedRun", "KeyboardInterrupt") else GptcoreError
        raise kind(f"{text} (its output is in {folder})")
    shutil.rmtree(folder)
    return result


def _open_space(plan: Sweep, preset: Preset, overrides: list[str], data: OwnData | None, *, seed: int) -> Proposer:
    """The space, when the stage exists and the first values can be set.

    Raises:
        ConfigError: otherwise.
    """
    if plan.stage not in STAGES:
        raise ConfigError(f"there is no stage {plan.stage!r}{nearest(plan.stage, STAGES)}")
    dimensions = [parse_dimension(text) for text in plan.vary]
    for dimension in dimensions:
        bounds = dimension.choices or ((str(round(dimension.low)),) if dimension.whole else (str(dimension.low),))
        for value in bounds:
            configuration(preset, [*overrides, f"{dimension.path}={value}"], data)
    return propose(dimensions, trials=plan.trials, maximize=plan.maximize, seed=seed)


def _run(plan: Sweep, space: Proposer, job: dict[str, Any], record: Path, parent: str) -> list[Trial]:
    """Every trial, as many at once as there are workers; those of an interrupted attempt are not made again."""
    trials: list[Trial] = read_history(record)
    for done in trials:
        space.add_trial(done["values"], done["objective"])
    record.parent.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // plan.workers)
    shared = {"job": job, "objective": plan.objective, "parent": parent, "threads": threads}
    asked: dict[PrefectFuture[Trial], int] = {}
    with task_runner(plan.runner, workers=plan.workers) as runner, record.open("a", encoding="utf-8") as file:
        while True:
            while len(asked) < plan.workers and (next_one := space.ask()) is not None:
                number, values = next_one
                asked[runner.submit(trial, {**shared, "number": number, "values": values})] = number
            if not asked:
                return sorted(trials, key=lambda done: int(done["number"]))
            future = next(as_completed(list(asked)))
            done = future.result()
            space.tell(asked.pop(future), done["objective"])
            trials.append(done)
            file.write(json.dumps(done) + "\n")
            file.flush()


def _log(log: MlflowLogger, plan: Sweep, trials: list[Trial], found: Mapping[str, Any] | None) -> None:
    rows = [{**done["values"], **{n: done[n] for n in ("number", "objective", "run_id", "error")}} for done in trials]
    log.log_table(rows, "trials.json")
    text = markdown(plan, trials)
    log.set_tags({NOTE: text})
    publish_markdown("sweep", text)
    failed = sum(done["objective"] is None for done in trials)
    log.log_metrics({"sweep/trials": float(len(trials)), "sweep/failed": float(failed)})
    if found is not None:
        log.log_metrics({"objective": float(found["objective"])})
        log.set_tags({f"{PREFIX}.sweep.best": " ".join(_as_overrides(found["values"]))})


def markdown(plan: Sweep, trials: list[Trial]) -> str:
    """The trials as a table, the best first."""
    paths = [parse_dimension(text).path for text in plan.vary]
    sign = -1 if plan.maximize else 1
    ranked = sorted(trials, key=lambda done: (done["objective"] is None, sign * (done["objective"] or 0.0)))
    lines = [f"| {' | '.join(paths)} | {plan.objective} | run |", f"|{'---|' * (len(paths) + 2)}"]
    for done in ranked:
        shown = done["error"][:100] if done["objective"] is None else f"{done['objective']:.6g}"
        link = f"[{plan.stage}](#/runs/{done['run_id']})" if done["run_id"] else ""
        lines.append(f"| {' | '.join(done['values'].get(path, '') for path in paths)} | {shown} | {link} |")
    return "\n".join(lines)


def _as_overrides(values: Values) -> list[str]:
    return [f"{path}={value}" for path, value in values.items()]
