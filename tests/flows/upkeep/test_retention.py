"""What is removed as old, and what never is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from flows.tracking.store import PREFIX, stage_experiment
from flows.upkeep.protected import UnknownLineage
from flows.upkeep.retention import Cleaning, Retention, clean
from gptcore.locking import hold

pytestmark = pytest.mark.flows
KEEP_RUNS = {"failed_run_days": None}
OLD = 100.0


def full(key: str) -> str:
    return key.ljust(16, "0")


def removed(done: Cleaning) -> set[str]:
    """Stage and key of the outputs that went, without the zeros."""
    return {one.what.rstrip("0") for one in done.report.findings if one.kind == "output"}


@pytest.fixture
def model(place: Any, output: Callable[..., Any]) -> Any:
    """A registered model whose champion was made from two outputs; its alias is taken away afterwards."""
    experiment = stage_experiment(place.settings, place.client, "finetune-instruct")
    tags = {f"{PREFIX}.stage": "finetune-instruct", f"{PREFIX}.key": full("c1")}
    run = place.client.create_run(experiment, tags=tags)
    output("prepare-data", "a1", days=OLD)
    output("pretrain", "b1", days=OLD, inputs={"prepare-data": "a1"})
    output("finetune-instruct", "c1", days=OLD, inputs={"prepare-data": "a1", "pretrain": "b1"})
    name = f"model-{run.info.run_id[:8]}"
    place.client.create_registered_model(name)
    version = place.client.create_model_version(name, source="file:///nowhere", run_id=run.info.run_id)
    place.client.set_registered_model_alias(name, "champion", version.version)
    place.client.set_terminated(run.info.run_id)
    yield name
    place.client.delete_registered_model(name)


def test_what_the_champion_was_made_from_is_never_removed(place: Any, model: str, output: Callable[..., Any]) -> None:
    output("pretrain", "b2", days=OLD, inputs={"prepare-data": "a1"})
    policy = Retention(output_days=0, newest=0, **KEEP_RUNS)
    looked = clean(place.settings, policy, dry_run=True)
    assert removed(looked) == {"pretrain/b2"}
    assert looked.kept == (f"{model}@champion",)
    assert looked.freed > 1000
    assert place.store.find("pretrain", full("b2")) is not None
    assert removed(clean(place.settings, policy, dry_run=False)) == {"pretrain/b2"}
    assert place.store.find("pretrain", full("b2")) is None
    for stage, key in (("prepare-data", "a1"), ("pretrain", "b1"), ("finetune-instruct", "c1")):
        assert place.store.find(stage, full(key), verify=True) is not None
    place.client.delete_registered_model_alias(model, "champion")
    assert removed(clean(place.settings, policy, dry_run=True)) == {
        "prepare-data/a1",
        "pretrain/b1",
        "finetune-instruct/c1",
    }


def test_nothing_is_removed_while_the_lineage_of_a_model_is_unknown(
    place: Any, model: str, output: Callable[..., Any]
) -> None:
    output("pretrain", "b2", days=OLD)
    version = place.client.create_model_version(model, source="file:///nowhere")
    place.client.set_registered_model_alias(model, "previous", version.version)
    with pytest.raises(UnknownLineage, match=rf"{model}@previous names no run"):
        clean(place.settings, Retention(output_days=0, newest=0, **KEEP_RUNS), dry_run=False)
    assert place.store.find("pretrain", full("b2")) is not None


def test_young_ones_the_newest_and_what_they_were_made_from_stay(place: Any, output: Callable[..., Any]) -> None:
    output("prepare-data", "a1", days=OLD)
    output("prepare-data", "a2", days=OLD + 1)
    output("pretrain", "b1", days=1, inputs={"prepare-data": "a2"})
    output("pretrain", "b2", days=OLD + 2, inputs={"prepare-data": "a1"})
    output("pretrain", "b3", days=OLD + 1, inputs={"prepare-data": "a1"})
    policy = Retention(output_days=30, newest=2, **KEEP_RUNS)
    assert removed(clean(place.settings, policy, dry_run=True)) == {"pretrain/b2"}
    policy = Retention(output_days=30, newest=0, **KEEP_RUNS)
    assert removed(clean(place.settings, policy, dry_run=True)) == {"pretrain/b2", "pretrain/b3", "prepare-data/a1"}


def test_an_output_that_somebody_holds_stays(place: Any, output: Callable[..., Any]) -> None:
    output("pretrain", "b1", days=OLD)
    with hold(place.store.lock("pretrain", full("b1"))):
        assert removed(clean(place.settings, Retention(newest=0, **KEEP_RUNS), dry_run=False)) == set()
    assert removed(clean(place.settings, Retention(newest=0, **KEEP_RUNS), dry_run=False)) == {"pretrain/b1"}


def test_old_work_damaged_outputs_downloads_and_reports_go_as_the_policy_says(place: Any) -> None:
    stage = place.settings.store / "pretrain"
    old = [stage / f"{full('d1')}.work", stage / f"{full('d2')}.corrupt-1", place.settings.cache / "a.zip"]
    old += [place.settings.home / "reports" / "demo-1"]
    young = [stage / f"{full('d3')}.work", stage / f"{full('d4')}.corrupt-1"]
    for path in (*old, *young):
        path.mkdir(parents=True)
        (path / "file").write_text("x")
    for path in old:
        for inside in (path / "file", path):
            os.utime(inside, (time.time() - OLD * 86_400,) * 2)
    with hold(place.store.lock("pretrain", full("d1"))):
        done = clean(place.settings, Retention(**KEEP_RUNS), dry_run=False)
    assert {one.what for one in done.report.findings} == {str(old[1]), str(old[3])}
    clean(place.settings, Retention(download_days=30, **KEEP_RUNS), dry_run=False)
    assert [path.exists() for path in old] == [False] * 4
    assert [path.exists() for path in young] == [True] * 2


def test_tracked_runs_that_failed_long_ago_go_into_the_bin(place: Any, model: str) -> None:
    experiment = stage_experiment(place.settings, place.client, "pretrain")
    begun = int((time.time() - 400 * 86_400) * 1000)
    ids = {}
    for status in ("FAILED", "KILLED", "FINISHED", "RUNNING"):
        ids[status] = place.client.create_run(experiment, start_time=begun).info.run_id
        if status != "RUNNING":
            place.client.set_terminated(ids[status], status)
    policy = Retention(output_days=1e6, failed_run_days=365)
    looked = clean(place.settings, policy, dry_run=True)
    assert {one.what.split()[-1] for one in looked.report.findings} == {ids["FAILED"], ids["KILLED"]}
    clean(place.settings, policy, dry_run=False)
    stages = {status: place.client.get_run(run_id).info.lifecycle_stage for status, run_id in ids.items()}
    assert stages == {"FAILED": "deleted", "KILLED": "deleted", "FINISHED": "active", "RUNNING": "active"}
    place.client.set_terminated(ids["RUNNING"], "KILLED")
