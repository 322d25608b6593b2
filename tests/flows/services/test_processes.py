"""Starting, watching and ending processes; the state file; ports."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.services.processes import Process, ServiceError, choose_port, end, flow_processes, launch, wait_until
from flows.services.state import Member, State, changing, read_state, running_addresses, state_path
from gptcore.errors import LockedError

SLEEPS = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
STUBBORN = (
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True);"
    "print('here', flush=True); time.sleep(60)"
)


def begun(tmp_path: Path, command: list[str], **variables: str) -> Process:
    log = tmp_path / "service.log"
    process = launch(command, environment={"PATH": os.environ["PATH"], **variables}, log=log, cwd=tmp_path)
    wait_until(lambda: "here" in log.read_text(), name="it", process=process, log=log, seconds=30)
    return process


def test_a_process_is_alive_until_it_is_ended(tmp_path: Path) -> None:
    process = begun(tmp_path, SLEEPS)
    assert process.alive
    assert os.getsid(process.pid) == process.pid, "Ctrl-C in the terminal would reach it"
    end(process, seconds=10)
    assert not process.alive
    end(process, seconds=10)


def test_what_does_not_want_to_end_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    process = begun(tmp_path, [sys.executable, "-c", STUBBORN])
    (child,) = psutil.Process(process.pid).children()
    end(process, seconds=0.5)
    assert not process.alive
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_another_process_of_the_same_number_is_not_taken_for_it() -> None:
    own = Process.of(os.getpid())
    assert own.alive
    assert not Process(own.pid, own.started - 1000).alive


def test_one_that_ends_while_it_starts_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    command = [sys.executable, "-c", "raise SystemExit('no such database')"]
    process = launch(command, environment={}, log=log, cwd=tmp_path)
    with pytest.raises(ServiceError, match=r"mlflow ended while it started; the last lines of .*\nno such database"):
        wait_until(lambda: False, name="mlflow", process=process, log=log, seconds=30)


def test_one_that_is_not_ready_in_time_is_told(tmp_path: Path) -> None:
    process = begun(tmp_path, SLEEPS)
    with pytest.raises(ServiceError, match=r"prefect was not ready after 0 s; the last lines of"):
        wait_until(lambda: False, name="prefect", process=process, log=tmp_path / "service.log", seconds=0.3)
    end(process, seconds=10)


def test_a_wanted_port_that_is_taken_is_refused_and_a_default_one_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        told = rf"port {taken} is taken by process {os.getpid()} \(.+\); choose another with --mlflow-port"
        with pytest.raises(ServiceError, match=told):
            choose_port(taken, default=5000, option="--mlflow-port")
        assert choose_port(None, default=taken, option="--mlflow-port") != taken
    assert choose_port(taken, default=5000, option="--mlflow-port") == taken
    assert choose_port(0, default=5000, option="--mlflow-port") > 0


def test_the_runs_of_one_server_are_told_from_those_of_another(tmp_path: Path) -> None:
    own, other = (
        begun(tmp_path, SLEEPS, PREFECT__FLOW_RUN_ID="7", PREFECT_API_URL=f"http://127.0.0.1:{port}/api")
        for port in (1, 2)
    )
    assert [process.pid for process in flow_processes("http://127.0.0.1:1/api")] == [own.pid]
    for process in (own, other):
        end(process, seconds=10)


def test_the_state_is_kept_while_something_runs_and_changed_by_one_command_at_a_time(tmp_path: Path) -> None:
    own = Process.of(os.getpid())
    with changing(tmp_path) as state:
        state.members["prefect"] = Member(own, "http://127.0.0.1:4200", "prefect.log")
        state.members["mlflow"] = Member(own, "http://127.0.0.1:5000", "mlflow.log")
        with pytest.raises(LockedError, match=re.escape(str(tmp_path))), changing(tmp_path):
            pass
    assert read_state(tmp_path) == state
    assert state.alive("prefect")
    assert not state.alive("worker")
    assert running_addresses(tmp_path) == {
        "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
    }
    with changing(tmp_path) as state:
        state.members["mlflow"] = Member(Process(own.pid, time.time() - 1e6), "http://127.0.0.1:5000", "mlflow.log")
    assert running_addresses(tmp_path) == {}
    with changing(tmp_path) as state:
        state.members.clear()
    assert not state_path(tmp_path).exists()
    assert read_state(tmp_path) == State()
