"""All services on this machine without a container: Prefect's server, MLflow's, one worker, every flow deployed.

They listen on loopback only, keep their data below the project's folder, and keep running when the terminal is closed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from flows.services.deploy import POOL, deploy
from flows.services.prefect_api import PrefectApi
from flows.services.processes import (
    Process,
    answers,
    choose_port,
    end,
    end_all,
    flow_processes,
    launch,
    wait_until,
)
from flows.services.state import NAMES, Member, State, changing
from flows.services.worker import SECONDS_TO_HAND_OVER, worker_name
from flows.settings import Settings, environment, read_settings
from gptcore.errors import ConfigError
from gptcore.locking import hold

Say = Callable[[str], None]
_SECONDS_TO_START = 240.0
_SECONDS_TO_END = {"worker": SECONDS_TO_HAND_OVER + 20, "mlflow": 15.0, "prefect": 20.0}
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Wanted:
    """What to start."""

    prefect_port: int | None = None
    """Port of Prefect's server; None takes 4200 if it is free, 0 any."""
    mlflow_port: int | None = None
    """Port of MLflow's server; None takes 5000 if it is free, 0 any."""
    limit: int = 1
    """How many flows may run at once, those that look after the others not counted."""


def up(settings: Settings, wanted: Wanted, *, say: Say) -> State:
    """Start what does not run yet, and deploy every flow; ``say`` is called with each step.

    MLflow's runs stay in the SQLite file that commands without a server use.

    Raises:
        ServiceError: a port is taken, or a server did not start; what this call has started is ended again.
        LockedError: another ``up`` or ``down`` is at work.
        ConfigError: the environment names other servers.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with changing(settings.home) as state:
        _check_addresses(state)
        before = {name for name in NAMES if state.alive(name)}
        for name in set(state.members) - before:
            say(f"{name} has died since it was started; see its log {state.members[name].log}")
        try:
            _start(settings, wanted, state, before, say)
        except BaseException:
            _stop(state, [name for name in reversed(NAMES) if name in state.members and name not in before], say)
            raise
    return state


def down(settings: Settings, *, say: Say) -> bool:
    """End everything that was started, and every run of its worker: first the worker, which hands its runs over.

    False if there was nothing.

    Raises:
        LockedError: an ``up`` or another ``down`` is at work.
    """
    with changing(settings.home) as state:
        names = [name for name in reversed(NAMES) if name in state.members]
        _stop(state, names, say)
    return bool(names)


def _check_addresses(state: State) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        given = os.environ.get(name, "")
        if given.startswith("http") and given != state.addresses.get(name):
            raise ConfigError(f"{name} is {given}, another server; unset it to start one on this machine")


def _start(settings: Settings, wanted: Wanted, state: State, running: set[str], say: Say) -> None:
    # the same folders with MLflow's store as a file: what the server opens, whatever the commands are led to
    local = read_settings({"GPTWORKS_HOME": str(settings.home), "PREFECT_HOME": str(settings.prefect_home)})
    variables = {**os.environ, **environment(local)}
    variables.pop("PREFECT_API_URL", None)
    if "prefect" not in running:
        port = _port(state, "prefect", wanted.prefect_port, default=4200)
        state.members["prefect"] = _launch("prefect", ["prefect", "server", "start"], variables, local, port)
    if "mlflow" not in running:
        port = _port(state, "mlflow", wanted.mlflow_port, default=5000)
        # two processes that set up the same new SQLite file at once: one of them fails
        with hold(local.home / "mlflow.lock", purpose="the MLflow store"):
            stores = ("--backend-store-uri", local.mlflow_uri, "--artifacts-destination", local.artifact_root.as_uri())
            command = ["mlflow", "server", "--workers", "1", *stores]
            state.members["mlflow"] = _launch("mlflow", command, variables, local, port)
            _wait(state, "mlflow", "/health")
        say(f"mlflow:  {state.members['mlflow'].url}")
    if "prefect" not in running:
        _wait(state, "prefect", "/api/ready")
        say(f"prefect: {state.members['prefect'].url}")
    variables |= state.addresses
    with PrefectApi(state.api) as api:
        deploy(api, environment=variables, limit=wanted.limit)
        api.pause_pool(POOL, paused=False)
        say(f"deployed: {len(api.deployments())} flows of prefect.yaml to the pool {POOL}")
        if "worker" not in running:
            _start_worker(state, variables, local, api)
            say(f"worker:  {worker_name()}, {wanted.limit} run{'s' * (wanted.limit > 1)} at once")


def _port(state: State, name: str, wanted: int | None, *, default: int) -> int:
    """The old port for a server that has died: runs that are still alive know no other."""
    before = state.members.get(name)
    if before is not None:
        wanted, default = None, int(before.url.rpartition(":")[2])
    return choose_port(wanted, default=default, option=f"--{name}-port")


def _start_worker(state: State, variables: Mapping[str, str], settings: Settings, api: PrefectApi) -> None:
    state.members["worker"] = _launch("worker", ["flows", "worker"], variables, settings, port=None)
    process, log = state.members["worker"].process, Path(state.members["worker"].log)

    def online() -> bool:
        # a worker of the same name that died has left its last sign of life
        signs = [worker["last_heartbeat_time"] for worker in api.workers(POOL) if worker["name"] == worker_name()]
        return any(sign and datetime.fromisoformat(sign).timestamp() > process.started for sign in signs)

    wait_until(online, name="worker", process=process, log=log, seconds=_SECONDS_TO_START)


def _launch(
    name: str, command: list[str], variables: Mapping[str, str], settings: Settings, port: int | None
) -> Member:
    log = settings.home / "logs" / f"{name}.log"
    listening = ["--host", _LOOPBACK, "--port", str(port)] if port else []
    whole = [sys.executable, "-m", *command, *listening]
    process: Process = launch(whole, environment=variables, log=log, cwd=settings.home)
    return Member(process, f"http://{_LOOPBACK}:{port}" if port else "", str(log))


def _wait(state: State, name: str, path: str) -> None:
    member = state.members[name]
    process, log = member.process, Path(member.log)
    wait_until(lambda: answers(member.url + path), name=name, process=process, log=log, seconds=_SECONDS_TO_START)


def _stop(state: State, names: list[str], say: Say) -> None:
    for name in names:
        if state.alive(name):
            say(f"ending {name} (process {state.members[name].process.pid})")
        end(state.members[name].process, seconds=_SECONDS_TO_END[name])
        if name == "worker":
            _end_left_flows(state.api, say)
        del state.members[name]


def _end_left_flows(api: str, say: Say) -> None:
    """Those of a worker that died before, which nobody watches."""
    left = list(flow_processes(api)) if api else []
    for process in left:
        say(f"ending the run of process {process.pid}, whose worker is gone")
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    end_all(left, seconds=SECONDS_TO_HAND_OVER)
