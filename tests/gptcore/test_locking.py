"""One process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gptcore.errors import LockedError
from gptcore.locking import hold, owner

HOLD_IT = """
import sys, time
from pathlib import Path
from gptcore.locking import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def another_process_holds(path: Path, *, seconds: float = 60.0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD_IT, str(path), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_lock_held_elsewhere_is_refused_at_once_and_its_owner_named(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with another_process_holds(path) as process:
        message = rf"the run is in use by process {process.pid} on .+ since \d{{4}}-.*wait for it or stop it"
        with pytest.raises(LockedError, match=message), hold(path, wait=False, purpose="the run"):
            pass
        assert process.poll() is None


def test_a_killed_owner_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with another_process_holds(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    with hold(path, wait=False):
        assert owner(path).startswith(f"process {os.getpid()} on ")


def test_a_waiting_process_goes_on_when_the_lock_is_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run.lock"
    with another_process_holds(path, seconds=0.3) as process:
        with hold(path, purpose="the stage"):
            assert owner(path).startswith(f"process {os.getpid()} on ")
        assert f"the stage is in use by process {process.pid} on " in caplog.text
        assert caplog.text.rstrip().endswith("; waiting for it")


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.lock"
    with pytest.raises(RuntimeError, match="stop"), hold(path, wait=False):
        raise RuntimeError("stop")
    with hold(path, wait=False):
        pass


def test_an_unreadable_signature_still_says_something(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text("not json")
    assert owner(tmp_path / "run.lock") == "another process"
    assert owner(tmp_path / "nowhere") == "another process"
