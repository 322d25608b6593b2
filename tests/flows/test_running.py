"""The presence of a flow run, and locks whose files may be removed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.orchestrator.running import is_running, presence, present
from gptcore.locking import hold, is_held, remove_if_free

FLOW_RUN = "PREFECT__RUNTIME__FLOW_RUN__ID"
PROGRAM = """
import pathlib, sys, time
from flows.orchestrator.running import present
with present(pathlib.Path(sys.argv[1])):
    print("here", flush=True)
    time.sleep(60)
"""

TAKE_TURNS = """
import pathlib, sys, time
from gptcore.locking import hold
lock, log, n = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
for _ in range(n):
    with hold(lock):
        with log.open("a") as file:
            file.write("in\\n")
        time.sleep(0.0005)
        with log.open("a") as file:
            file.write("out\\n")
        lock.unlink(missing_ok=True)
"""


def test_outside_a_flow_nobody_is_present(tmp_path: Path) -> None:
    with present(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_flow_run_is_running_as_long_as_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FLOW_RUN, "7")
    assert not is_running(tmp_path, "7")
    with present(tmp_path):
        assert is_running(tmp_path, "7")
        assert not is_running(tmp_path, "8")
    assert not is_running(tmp_path, "7")
    assert not presence(tmp_path, "7").exists()


def test_a_killed_process_leaves_a_file_that_nobody_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FLOW_RUN, "7")
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"here\n"
        assert is_running(tmp_path, "7")
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    assert presence(tmp_path, "7").exists()
    assert not is_running(tmp_path, "7")


def test_only_a_free_lock_is_removed(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    assert not is_held(lock)
    assert not remove_if_free(lock)
    with hold(lock):
        assert is_held(lock)
        assert not remove_if_free(lock)
    assert lock.exists()
    assert not is_held(lock)
    assert remove_if_free(lock)
    assert not lock.exists()


def test_holders_that_remove_the_file_still_exclude_each_other(tmp_path: Path) -> None:
    lock, log, turns, n = tmp_path / "a.lock", tmp_path / "log", 100, 3
    command = [sys.executable, "-c", TAKE_TURNS, str(lock), str(log), str(turns)]
    processes = [subprocess.Popen(command) for _ in range(n)]
    assert [process.wait(60) for process in processes] == [0] * n
    assert log.read_text().split() == ["in", "out"] * (n * turns)
