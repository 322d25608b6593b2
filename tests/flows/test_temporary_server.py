"""The server that a command starts for itself: when, until when, and what becomes of it if the command is killed.

A small app stands in the place of Prefect's, which takes ten seconds to start; the pipeline's tests run with the real
one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flows.orchestrator.temporary_server import begin_server, is_temporary
from flows.services.processes import answers
from flows.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
APP = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"true"})

def create():
    return app

def broken():
    raise RuntimeError("no such table: flow_run")
"""
COMMAND = """
import os, sys
from flows.orchestrator import temporary_server
from flows.settings import apply_environment, read_settings
temporary_server._APP = sys.argv[1]
apply_environment(read_settings())
temporary_server.begin_server(read_settings())()
print(os.environ["PREFECT_API_URL"], temporary_server.is_temporary(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A command that waits for the end of its input, with its server's address told."""
    command = start(tmp_path, "app:create")
    yield command
    command.kill()
    command.communicate()


def start(folder: Path, app: str) -> subprocess.Popen[str]:
    (folder / "app.py").write_text(APP)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "GPTWORKS"))}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, app],
        env={**kept, "PYTHONPATH": f"{ROOT}:{folder}", "GPTWORKS_HOME": str(folder / "var")},
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def address(command: subprocess.Popen[str]) -> str:
    assert command.stdout is not None
    url, temporary = command.stdout.readline().split()
    assert temporary == "True"
    assert httpx.get(f"{url}/health", trust_env=False).text == "true"
    return url


def wait_for_silence(url: str) -> None:
    deadline = time.monotonic() + 60
    while answers(f"{url}/health"):
        assert time.monotonic() < deadline, "the server goes on"
        time.sleep(0.1)


def test_it_answers_before_the_flow_and_ends_with_the_command(begun: subprocess.Popen[str]) -> None:
    url = address(begun)
    begun.communicate("")
    assert begun.returncode == 0
    assert not answers(f"{url}/health")


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_it_ends_when_the_command_is_killed(begun: subprocess.Popen[str]) -> None:
    url = address(begun)
    begun.kill()
    wait_for_silence(url)


def test_why_it_does_not_start_is_told(tmp_path: Path) -> None:
    command = start(tmp_path, "app:broken")
    _, told = command.communicate("")
    log = tmp_path / "var" / "logs" / "temporary-server.log"
    assert command.returncode == 1
    assert f"ServiceError: Prefect's temporary server ended while it started; the last lines of {log}:" in told
    assert "RuntimeError: no such table: flow_run" in told


@pytest.mark.parametrize(
    "name", ["PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_SERVER_EPHEMERAL_ENABLED"]
)
def test_none_is_started_where_a_variable_chooses_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_processes: None
) -> None:
    monkeypatch.setenv(name, "something")
    begin_server(read_settings({"GPTWORKS_HOME": str(tmp_path / "var")}))()
    assert (tmp_path / "var" / "prefect").is_dir()
    assert not is_temporary()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prefect.toml", "[api]"),
        ("pyproject.toml", "[tool.prefect.api]"),
        (".env", "PREFECT_API_URL=http://127.0.0.1:4200/api"),
        ("var/prefect/profiles.toml", ""),
    ],
)
def test_none_is_started_where_a_file_may_choose_one(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_processes: None
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    begin_server(read_settings({"GPTWORKS_HOME": str(tmp_path / "var")}))()


@pytest.mark.parametrize(("name", "text"), [("pyproject.toml", 'dependencies = ["prefect"]'), (".env", "OLLAMA=1")])
def test_a_file_that_says_nothing_of_prefect_chooses_nothing(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_processes: None
) -> None:
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="a process was started"):
        begin_server(read_settings({"GPTWORKS_HOME": str(tmp_path / "var")}))


def test_who_has_imported_prefect_leaves_it_to_prefect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_processes: None
) -> None:
    monkeypatch.setitem(sys.modules, "prefect", object())
    begin_server(read_settings({"GPTWORKS_HOME": str(tmp_path / "var")}))()


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting one is an error; and Prefect counts as not imported, whatever ran before."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
