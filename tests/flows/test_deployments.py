"""Deployments with real parts: a Prefect server, a process worker, all of prefect.yaml, and one watched run."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from flows.settings import Settings, read_settings
from flows.tracking import PREFIX, connect

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
STAGES = ("prepare-data", "pretrain", "finetune-classifier", "finetune-instruct", "lora", "quantize", "evaluate")
DEPLOYMENTS = {*(f"{stage}/demo" for stage in STAGES), "pipeline/demo", "pipeline/book", "retrain/nightly"}


class Services(NamedTuple):
    """A server with every deployment, and a worker."""

    api: str
    environment: dict[str, str]
    settings: Settings
    said_by_deploy: str


def prefect(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def environment(home: Path, port: int) -> dict[str, str]:
    names = ("PATH", "HOME", "LANG", "TMPDIR", "GPTWORKS_SHARED_DATA", "TIKTOKEN_CACHE_DIR", "OMP_NUM_THREADS")
    return {
        **{name: os.environ[name] for name in names if name in os.environ},
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "true",
        "GPTWORKS_HOME": str(home / "var"),
        "OLLAMA_HOST": f"127.0.0.1:{free_port()}",  # nobody answers there
        "COLUMNS": "200",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def answers(url: str) -> bool:
    try:
        ask(url)
    except (OSError, urllib.error.URLError):
        return False
    return True


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{process.args} is not ready (exit code {process.poll()}):\n{log.read_text()[-3000:]}")
        time.sleep(0.3)


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started."""
    for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def begin(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    home = tmp_path_factory.mktemp("services")
    (home / "prefect").mkdir()
    port = free_port()
    env = environment(home, port)
    api = env["PREFECT_API_URL"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        command = prefect("server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui")
        started.append(begin(command, env, home / "server.log"))
        wait_for(lambda: answers(f"{api}/health"), started[-1], home / "server.log", seconds=180)
        # the worker makes the pool, which the deployments name
        command = prefect(
            *("worker", "start", "--pool", "gptworks", "--type", "process", "--install-policy", "never"),
        )
        started.append(begin(command, env, home / "worker.log"))
        wait_for(lambda: answers(f"{api}/work_pools/gptworks"), started[-1], home / "worker.log", seconds=120)
        deployed = subprocess.run(
            prefect("--no-prompt", "deploy", "--all"), cwd=ROOT, env=env, capture_output=True, text=True, timeout=240
        )
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        yield Services(api, env, read_settings(env), deployed.stdout)
    finally:
        for process in reversed(started):
            end(process)


def test_every_flow_is_deployed_and_no_deployment_keeps_a_path_of_this_machine(services: Services) -> None:
    found = ask(f"{services.api}/deployments/filter", {})
    flows = {flow["id"]: flow["name"] for flow in ask(f"{services.api}/flows/filter", {})}
    assert {f"{flows[deployment['flow_id']]}/{deployment['name']}" for deployment in found} == DEPLOYMENTS
    for deployment in found:
        assert deployment["work_pool_name"] == "gptworks"
        assert deployment["job_variables"]["stream_output"] is False
        assert deployment["description"]
        assert "gptworks" in deployment["tags"]
        assert deployment["enforce_parameter_schema"]
        assert str(ROOT) not in json.dumps([deployment["pull_steps"], deployment["path"], deployment["entrypoint"]])
    schedules = {schedule["slug"]: schedule for deployment in found for schedule in deployment["schedules"]}
    assert sorted(schedules) == ["nightly", "retrain-nightly"]
    assert not any(schedule["active"] for schedule in schedules.values())
    assert {schedule["schedule"]["timezone"] for schedule in schedules.values()} == {"Europe/Berlin"}


def test_a_watched_run_ends_completed_and_what_cannot_be_is_refused_before_a_run_is_made(services: Services) -> None:
    run = prefect("deployment", "run", "pipeline/demo")
    refused = [
        begin([*run, "-p", wrong], services.environment, services.settings.home.parent / f"refused-{i}.log")
        for i, wrong in enumerate(("presett=tiny", "preset=tinny", 'launch={"nproc": 0}'))
    ]
    for process in refused:
        process.wait(120)
    texts = [(services.settings.home.parent / f"refused-{i}.log").read_text() for i in range(3)]
    assert [process.returncode for process in refused] == [1, 1, 1], texts
    assert "presett" in texts[0]
    assert "preset" in texts[0].replace("presett", "")
    assert "'tinny' is not one of ['demo', 'book', 'tiny']" in " ".join(texts[1].split())
    assert "0 is less than the minimum of 1" in " ".join(texts[2].split())
    assert ask(f"{services.api}/flow_runs/filter", {}) == []

    watched = subprocess.run(
        [*run, "-p", "preset=tiny", "--watch", "--watch-interval", "2", "--watch-timeout", "420"],
        env=services.environment,
        cwd=services.settings.home.parent,
        capture_output=True,
        text=True,
        timeout=450,
    )
    log = (services.settings.home.parent / "worker.log").read_text()
    assert watched.returncode == 0, watched.stdout + watched.stderr + log[-3000:]
    runs = ask(f"{services.api}/flow_runs/filter", {})
    assert len(runs) == 1 + len(STAGES)
    assert {each["state_name"] for each in runs} == {"Completed"}
    check_tracking(services.settings, {each["id"] for each in runs})
    check_artifacts(services.api)


def check_tracking(settings: Settings, flow_runs: set[str]) -> None:
    """One parent run and one child per stage, finished, each with its flow run, params and figures."""
    client = connect(settings)
    experiments = {each.experiment_id: each.name for each in client.search_experiments()}
    runs = [run for run in client.search_runs(list(experiments)) if experiments[run.info.experiment_id] != "Default"]
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


def check_artifacts(api: str) -> None:
    """On Prefect's pages: a link to each tracked run, and the table of the whole pipeline."""
    artifacts = {artifact["key"]: artifact for artifact in ask(f"{api}/artifacts/filter", {})}
    assert {f"mlflow-{stage}" for stage in STAGES} | {"pipeline-summary"} <= set(artifacts)
    assert "/#/" in artifacts["mlflow-pretrain"]["data"]
    assert "| [pretrain](" in artifacts["pipeline-summary"]["data"]


@pytest.mark.timeout(30)
def test_prefect_yaml_names_each_flow_once_by_its_module() -> None:
    described = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    entrypoints = [(deployment["entrypoint"], deployment["name"]) for deployment in described["deployments"]]
    assert len(set(entrypoints)) == len(entrypoints) == len(DEPLOYMENTS)
    assert described["pull"] == []
    assert all(":" not in entrypoint for entrypoint, _ in entrypoints)
