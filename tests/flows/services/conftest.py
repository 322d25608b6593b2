"""A machine with all services, started as a user starts them, and what its users and its bad luck do to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows.orchestrator.running import presence
from flows.services.prefect_api import PrefectApi, Row
from flows.services.processes import flow_processes
from flows.services.state import State, read_state
from flows.settings import Settings, read_settings
from flows.tracking.runs import PREFIX, connect

ROOT = Path(__file__).resolve().parents[3]
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "GPTWORKS_SHARED_DATA", "TIKTOKEN_CACHE_DIR", "OMP_NUM_THREADS")
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def wait_for(found: Callable[[], Any], what: str, *, seconds: float) -> Any:
    """What ``found`` gives, as soon as that is something."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.3)
    return value


@dataclass
class Machine:
    """One project folder with its servers and its worker."""

    home: Path
    environment: Mapping[str, str]

    @property
    def state(self) -> State:
        """What was started."""
        return read_state(self.home)

    @property
    def api(self) -> PrefectApi:
        """A connection to Prefect's server."""
        return PrefectApi(self.state.api)

    @property
    def settings(self) -> Settings:
        """As the commands have them while all runs."""
        return read_settings({**self.environment, **self.state.addresses})

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command of gptworks."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows", *arguments],
            cwd=self.home.parent,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def command(self, *arguments: str, code: int = 0) -> str:
        """Run a command of gptworks and give what it prints."""
        process = self.begin(*arguments)
        printed, _ = process.communicate(timeout=400)
        assert process.returncode == code, f"{arguments}: {process.returncode}\n{printed}\n{self.logs()}"
        return " ".join(printed.split())

    def logs(self) -> str:
        """The end of every log."""
        parts = [f"== {path}\n{path.read_text()[-1500:]}" for path in sorted(self.home.glob("logs/*.log"))]
        return "\n".join(parts)

    def run(self, deployment: str, **parameters: Any) -> str:
        """Ask for a run of a deployment; gives its id."""
        found = self.deployment(*deployment.split("/"))
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "enforce_parameter_schema": True,
                "idempotency_key": str(uuid.uuid4())}  # fmt: skip
        return str(self.post(f"/deployments/{found}/create_flow_run", body)["id"])

    def deployment(self, flow: str, name: str) -> str:
        """Id of a deployment."""
        found = httpx.get(f"{self.state.api}/deployments/name/{flow}/{name}", timeout=30, trust_env=False)
        return str(found.raise_for_status().json()["id"])

    def post(self, path: str, body: Any) -> Any:
        """Ask Prefect's server; where it is too busy with SQLite to answer, again."""
        until = time.monotonic() + 60
        with httpx.Client(base_url=self.state.api, timeout=30, trust_env=False) as http:
            while (answer := http.post(path, json=body)).status_code == 503:
                assert time.monotonic() < until, "the server was busy for a minute"
                time.sleep(1)
        return answer.raise_for_status().json()

    def read(self, run_id: str) -> Row:
        """A flow run as the server has it now."""
        with self.api as api:
            found = api.run(run_id)
        assert found is not None
        return found

    def wait(self, run_id: str, *names: str, seconds: float = 400) -> Row:
        """Wait until a flow run is in a state of one of these names."""

        def there() -> Row | None:
            found = self.read(run_id)
            if found["state_name"] not in names and found["state_type"] in ENDED and "Crashed" not in names:
                message = found["state"]["message"]
                pytest.fail(f"{found['state_name']} instead of {names}: {message}\n{self.logs()}")
            return found if found["state_name"] in names else None

        return dict(wait_for(there, f"{run_id} in {names}", seconds=seconds))

    def pid(self, run_id: str) -> int:
        """The process that runs a flow run; waits until it has begun."""
        lock = presence(self.home, run_id)

        def owner() -> int:
            try:
                return int(json.loads(lock.read_text())["pid"])
            except (OSError, ValueError):
                return 0

        return int(wait_for(owner, f"the process of {run_id}", seconds=300))

    def wait_for_checkpoint(self, stage: str, *, after: float = 0.0) -> Path:
        """Wait for one that is younger than a moment, in the work of a stage that goes on; gives its folder."""

        def newest() -> Path | None:
            found = (self.home / "store" / stage).glob("*.work/run/checkpoints/step-*/manifest.json")
            fresh = [path.parent for path in found if path.stat().st_mtime > after]
            return max(fresh, default=None)

        return Path(wait_for(newest, f"a checkpoint of {stage}", seconds=300))

    def tracked(self, stage: str) -> list[Any]:
        """All MLflow runs of a stage, those that were deleted too."""
        client = connect(self.settings)
        experiment = client.get_experiment_by_name(f"{PREFIX}/{stage}")
        return list(client.search_runs([experiment.experiment_id], run_view_type=3)) if experiment else []

    def steps(self, run: Any, metric: str = "train/loss") -> list[int]:
        """The steps at which a metric of a tracked run was logged, in the order of logging."""
        return [point.step for point in connect(self.settings).get_metric_history(run.info.run_id, metric)]

    def kill(self, pid: int) -> None:
        """As the system does when memory runs out."""
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(pid) or is_zombie(pid), f"the end of {pid}", seconds=10)

    def kill_service(self, name: str) -> None:
        """One of prefect, mlflow and worker, without its children."""
        self.kill(self.state.members[name].process.pid)

    def left_flows(self) -> list[str]:
        """Ids of the flow runs that still have a process, but for those that look after the others."""
        found = []
        for process in flow_processes(self.state.api):
            with contextlib.suppress(psutil.Error):
                found.append(process.environ()["PREFECT__FLOW_RUN_ID"])
        return [run_id for run_id in found if self.read(run_id)["work_queue_name"] != "upkeep"]

    def wait_for_no_flow(self) -> None:
        """A run that is Completed still has its process for the moment in which python ends."""
        wait_for(lambda: not self.left_flows(), "the end of the processes of all flow runs", seconds=60)


def is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Everything runs on free ports; two runs at once."""
    home = tmp_path_factory.mktemp("machine") / "var"
    environment = {
        **{name: os.environ[name] for name in KEPT if name in os.environ},
        "PYTHONPATH": str(ROOT),
        "GPTWORKS_HOME": str(home),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "OLLAMA_HOST": "127.0.0.1:9",  # nobody answers there
        "COLUMNS": "250",
    }
    machine = Machine(home, environment)
    api = ""
    try:
        machine.command("up", "--prefect-port", "0", "--mlflow-port", "0", "--limit", "2")
        api = machine.state.api
        yield machine
    finally:
        started = [member.process for member in machine.state.members.values()]
        machine.begin("down").communicate(timeout=200)
        assert [process for process in started if process.alive] == []
        assert list(flow_processes(api)) == []
