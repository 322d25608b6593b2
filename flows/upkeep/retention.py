"""Remove what is old and not in use: outputs, interrupted work, damaged outputs, downloads, failed runs, reports.

An output stays while it is young, among the newest of its stage, behind a model with an alias, or needed by one that
stays. Nothing is removed while it is not known which models are in use.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from flows.settings import Settings
from flows.store import StageStore
from flows.tracking.runs import connect
from flows.tracking.store import search_runs
from flows.tracking.sync import forget
from flows.upkeep.findings import Report
from flows.upkeep.leftovers import remove_tree
from flows.upkeep.protected import Output, Protected, find_protected, with_inputs
from gptcore.files import MANIFEST
from gptcore.locking import hold, is_held

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DAY = 86_400.0


class Retention(BaseModel):
    """How long what is kept; None keeps it for ever."""

    model_config = ConfigDict(extra="forbid")

    output_days: float = Field(default=30, ge=0, description="Outputs of stages that no model in use needs")
    newest: int = Field(default=2, ge=0, description="Number of outputs of each stage that stay, however old")
    work_days: float = Field(default=14, ge=0, description="Interrupted work that was not resumed")
    damaged_days: float = Field(default=7, ge=0, description="Outputs that were set aside as damaged")
    failed_run_days: float | None = Field(default=30, ge=0, description="Tracked runs that failed or were killed")
    finished_run_days: float | None = Field(default=None, ge=0, description="Tracked runs that ended well")
    download_days: float | None = Field(default=None, ge=0, description="Downloaded data sets")
    report_days: float | None = Field(default=90, ge=0, description="Reports of pipelines")


@dataclass
class Cleaning:
    """What came of one cleaning."""

    report: Report
    freed: int = 0
    """Bytes."""
    kept: tuple[str, ...] = ()
    """Models in use, behind which nothing is removed."""


def clean(settings: Settings, policy: Retention, *, dry_run: bool) -> Cleaning:
    """Remove what the policy does not keep; with ``dry_run`` only report what and how much.

    Raises:
        UnknownLineage: it is unknown which models are in use, or what they were made from.
    """
    used = find_protected(settings)
    done = Cleaning(Report(dry_run), kept=tuple(used.models))
    store = StageStore(settings.store)
    for output in sorted(_stale_outputs(store, policy, used)):
        _remove_output(store, output, done)
    _remove_old(done, settings.store.glob("*/*.work"), policy.work_days, "interrupted work")
    _remove_old(done, settings.store.glob("*/*.corrupt-*"), policy.damaged_days, "damaged output")
    _remove_old(done, settings.cache.glob("*"), policy.download_days, "download")
    _remove_old(done, (settings.home / "reports").glob("*"), policy.report_days, "report")
    client = connect(settings)
    for status in ("FAILED", "KILLED"):
        _delete_runs(client, status, policy.failed_run_days, used, done)
    _delete_runs(client, "FINISHED", policy.finished_run_days, used, done)
    if policy.failed_run_days is not None and not dry_run:
        forget(settings, older_than_days=policy.failed_run_days)
    return done


def _stale_outputs(store: StageStore, policy: Retention, used: Protected) -> set[Output]:
    outputs = {Output(path.parent.parent.name, path.parent.name): path for path in store.root.glob(f"*/*/{MANIFEST}")}
    outputs = {output: path for output, path in outputs.items() if "." not in output.key}
    made = {output: path.stat().st_mtime for output, path in outputs.items()}
    kept = {output for output in outputs if _age(made[output]) <= policy.output_days}
    for stage in {output.stage for output in outputs}:
        newest = sorted((o for o in outputs if o.stage == stage), key=lambda o: made[o], reverse=True)
        kept.update(newest[: policy.newest])
    return set(outputs) - with_inputs(store, kept | (used.outputs & set(outputs))) - used.outputs


def _remove_output(store: StageStore, output: Output, done: Cleaning) -> None:
    folder = store.folder(*output)
    days = _age((folder / MANIFEST).stat().st_mtime)
    if is_held(store.lock(*output)):
        return
    text = f"{days:.0f} days old, {_weigh(folder, done)}"
    if not done.report.dry_run:
        with hold(store.lock(*output), wait=False):
            remove_tree(store.retire(*output))
    done.report.add("output", f"{output.stage}/{output.key}", found=text, done="removed")


def _remove_old(done: Cleaning, paths: Iterator[Path], days: float | None, what: str) -> None:
    for path in sorted(paths):
        age = _age(max(inside.stat().st_mtime for inside in [path, *path.rglob("*")]))
        lock = path.with_name(f"{path.name.partition('.')[0]}.lock")
        if days is None or age <= days or is_held(lock):
            continue
        text = f"{what}, {age:.0f} days old, {_weigh(path, done)}"
        if not done.report.dry_run:
            with hold(lock, wait=False) if path.suffix == ".work" else nullcontext():
                remove_tree(path)
        done.report.add("file", str(path), found=text, done="removed")


def _delete_runs(client: MlflowClient, status: str, days: float | None, used: Protected, done: Cleaning) -> None:
    """Into MLflow's bin, from which ``mlflow gc`` removes them for good."""
    if days is None:
        return
    before = int((time.time() - days * _DAY) * 1000)
    for run in search_runs(client, f"attributes.status = '{status}' and attributes.start_time < {before}"):
        if run.info.run_id in used.run_ids:
            continue
        if not done.report.dry_run:
            client.delete_run(run.info.run_id)
        text = f"{run.info.status}, {_age(run.info.start_time / 1000):.0f} days old"
        done.report.add("mlflow run", f"{run.info.run_name} {run.info.run_id}", found=text, done="deleted")


def _age(moment: float) -> float:
    return (time.time() - moment) / _DAY


def _weigh(path: Path, done: Cleaning) -> str:
    """What a path holds, which is counted as freed."""
    size = sum(inside.stat().st_size for inside in [path, *path.rglob("*")] if inside.is_file())
    done.freed += size
    return f"{size / 1e6:.1f} MB"
