"""Deployments with real parts: what ``gptworks up`` starts, all of prefect.yaml, and one watched run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flows.services.deploy import UPKEEP
from flows.stages.every import STAGES
from flows.tracking.runs import PREFIX, connect

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[3]
DESCRIBED: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]


def rows(machine: Any, path: str) -> list[dict[str, Any]]:
    answer = httpx.post(f"{machine.state.api}/{path}/filter", json={}, timeout=30, trust_env=False)
    found: list[dict[str, Any]] = answer.raise_for_status().json()
    return found


def prefect(machine: Any, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "prefect", *arguments],
        cwd=machine.home.parent,
        env={**machine.environment, **machine.state.addresses, "PREFECT_HOME": str(machine.home / "prefect")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_what_up_starts_answers_and_is_told(machine: Any) -> None:
    told = machine.command("status")
    assert re.search(r"prefect │ well │ http://127\.0\.0\.1:\d+", told)
    assert re.search(r"mlflow │ well │ http://127\.0\.0\.1:\d+", told)
    assert re.search(r"worker │ well │ gptworks-", told)
    assert "gptworks (process), 1 worker online" in told
    assert "queue default: 0 waiting" in told
    assert f"queue {UPKEEP}: " in told
    again = machine.command("up", "--limit", "2")
    assert "worker:" not in again
    assert "export PREFECT_API_URL=http://127.0.0.1:" in again


def test_every_flow_is_deployed_and_no_deployment_keeps_a_path_of_this_machine(machine: Any) -> None:
    found = rows(machine, "deployments")
    assert len(found) == len(DESCRIBED)
    for deployment in found:
        assert deployment["work_pool_name"] == "gptworks"
        assert deployment["job_variables"]["stream_output"] is False
        assert deployment["description"]
        assert "gptworks" in deployment["tags"]
        assert deployment["enforce_parameter_schema"]
        assert (deployment["work_queue_name"] == UPKEEP) == ("upkeep" in deployment["tags"])
        assert str(ROOT) not in json.dumps([deployment["pull_steps"], deployment["path"], deployment["entrypoint"]])
    described = {schedule["slug"]: schedule for deployment in DESCRIBED for schedule in deployment.get("schedules", [])}
    schedules = {schedule["slug"]: schedule for deployment in found for schedule in deployment["schedules"]}
    assert set(schedules) == set(described)
    for slug, schedule in schedules.items():
        assert schedule["active"] == described[slug]["active"]
        assert schedule["schedule"]["timezone"] == described[slug]["timezone"]


def test_the_server_makes_the_runs_of_a_schedule(machine: Any) -> None:
    until, scheduled = time.monotonic() + 120, list[Any]()
    with machine.api as api:
        while not scheduled and time.monotonic() < until:  # the server looks at its schedules once a minute
            scheduled = [run for run in api.runs(names=["Scheduled", "Late"]) if run["auto_scheduled"]]
            time.sleep(1)
        names = api.flow_names()
    assert {names[run["flow_id"]] for run in scheduled} == {"reconcile"}
    assert {run["work_queue_name"] for run in scheduled} == {UPKEEP}


def test_what_cannot_be_is_refused_before_a_run_is_made(machine: Any) -> None:
    wrong = ("presett=tiny", "preset=tinny", 'launch={"nproc": 0}')
    refused = [prefect(machine, "deployment", "run", "pipeline/demo", "-p", each) for each in wrong]
    texts = [" ".join(process.communicate(timeout=120)[0].split()) for process in refused]
    assert [process.returncode for process in refused] == [1, 1, 1], texts
    assert "presett" in texts[0]
    assert "preset" in texts[0].replace("presett", "")
    assert "'tinny' is not one of ['demo', 'book', 'tiny']" in texts[1]
    assert "0 is less than the minimum of 1" in texts[2]
    assert asked_for(machine) == []


def test_a_watched_run_of_one_stage_ends_completed(machine: Any) -> None:
    watch(machine, "prepare-data/demo")
    (run,) = asked_for(machine)
    assert run["state_name"] == "Completed"
    (tracked,) = machine.tracked("prepare-data")
    assert (tracked.info.status, tracked.data.tags["prefect.flow_run_id"]) == ("FINISHED", run["id"])
    assert "mlflow-prepare-data" in {artifact["key"] for artifact in rows(machine, "artifacts")}
    machine.wait_for_no_flow()


@pytest.mark.slow
def test_a_watched_pipeline_ends_completed_with_all_its_stages(machine: Any) -> None:
    before = {run["id"] for run in asked_for(machine)}
    watch(machine, "pipeline/demo", "-p", 'overrides=["prepare.vocab_size=290"]')
    runs = [run for run in asked_for(machine) if run["id"] not in before]
    assert len(runs) == 1 + len(STAGES)
    assert {each["state_name"] for each in runs} == {"Completed"}
    check_tracking(machine, {each["id"] for each in runs}, before=before)
    check_artifacts(machine)
    assert not {lock.stem for lock in (machine.home / "running").iterdir()} & {each["id"] for each in runs}
    machine.wait_for_no_flow()


def watch(machine: Any, deployment: str, *parameters: str) -> None:
    """As a user does."""
    how = ("--watch", "--watch-interval", "2", "--watch-timeout", "420")
    watched = prefect(machine, "deployment", "run", deployment, "-p", "preset=tiny", *parameters, *how)
    said, _ = watched.communicate(timeout=450)
    assert watched.returncode == 0, said + machine.logs()


def asked_for(machine: Any) -> list[dict[str, Any]]:
    """All flow runs but those of schedules."""
    return [run for run in rows(machine, "flow_runs") if not run["auto_scheduled"]]


def check_tracking(machine: Any, flow_runs: set[str], *, before: set[str]) -> None:
    """One parent run and one child per stage, finished, each with its flow run, params and figures; no other is new."""
    client = connect(machine.settings)
    experiments = {each.experiment_id: each.name for each in client.search_experiments()}
    found = client.search_runs(list(experiments))
    named = [run for run in found if experiments[run.info.experiment_id] != "Default"]
    runs = [run for run in named if run.data.tags["prefect.flow_run_id"] not in before]
    by_stage = {experiments[run.info.experiment_id].removeprefix(f"{PREFIX}/"): run for run in runs}
    assert set(by_stage) == {"pipeline", *STAGES}
    assert len(runs) == len(by_stage)
    parent = by_stage["pipeline"].info.run_id
    for stage, run in by_stage.items():
        assert run.info.status == "FINISHED", stage
        flow_run = run.data.tags["prefect.flow_run_id"]
        assert flow_run in flow_runs, stage
        assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/\S+/{flow_run}", run.data.tags["prefect.flow_run_url"]), stage
        assert run.data.tags.get("mlflow.parentRunId") == (None if stage == "pipeline" else parent), stage
        assert run.data.params["seed"] == "1", stage
        assert run.data.metrics["perf/seconds"] > 0, stage
    assert by_stage["pretrain"].data.metrics["val/perplexity"] > 1
    assert "finetune-classifier/test/accuracy" in by_stage["pipeline"].data.metrics


def check_artifacts(machine: Any) -> None:
    """On Prefect's pages: how far each stage is, a link to its tracked run, and the table of the whole pipeline."""
    artifacts = {artifact["key"]: artifact for artifact in rows(machine, "artifacts")}
    assert {f"mlflow-{stage}" for stage in STAGES} | {"pipeline-summary"} <= set(artifacts)
    assert artifacts["mlflow-pretrain"]["data"].count(machine.settings.mlflow_uri) >= 1
    assert {f"progress-{stage}" for stage in STAGES} <= set(artifacts)
    assert float(artifacts["progress-pretrain"]["data"]) == 100
    assert "train/loss" in artifacts["progress-pretrain"]["description"]
    assert "| [pretrain](" in artifacts["pipeline-summary"]["data"]


@pytest.mark.timeout(30)
def test_prefect_yaml_names_each_flow_once_by_its_module() -> None:
    described = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    entrypoints = [(deployment["entrypoint"], deployment["name"]) for deployment in described["deployments"]]
    assert len(set(entrypoints)) == len(entrypoints)
    assert described["pull"] == []
    assert all(":" not in entrypoint for entrypoint, _ in entrypoints)
