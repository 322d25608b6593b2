"""``retrain/nightly`` with real parts: server, worker, deployment, event and approval."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flows.registry.versions import Aliases, ModelRegistry
from flows.settings import Settings, read_settings

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[3]
MODEL = "gptworks-tiny"


class Site(NamedTuple):
    """A server with the deployment, and a worker."""

    api: str
    environment: dict[str, str]
    settings: Settings


def rows(numbers: range) -> str:
    made = (
        {"instruction": f"Add {i} and {3 * i}.", "output": f"The sum of {i} and {3 * i} is {4 * i}."} for i in numbers
    )
    return "".join(json.dumps(row) + "\n" for row in made)


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or "null")


def wait_for(condition: Callable[[], Any], *, seconds: float, log: Path) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        time.sleep(0.5)
    pytest.fail(f"waited {seconds} s in vain; {log.name} ends:\n{log.read_text()[-3000:]}")


def call(site: Site, module: str, *arguments: str, timeout: float = 900) -> str:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=site.environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("nightly")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = kept | {
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
        "DO_NOT_TRACK": "true",
        "GPTWORKS_HOME": str(home / "var"),
        "OLLAMA_HOST": "127.0.0.1:9",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    (home / "prefect").mkdir()
    found = Site(environment["PREFECT_API_URL"], environment, read_settings(environment))
    started: list[subprocess.Popen[bytes]] = []

    def begin(name: str, *arguments: str) -> Path:
        log = home / f"{name}.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "prefect", *arguments]
            started.append(
                subprocess.Popen(command, cwd=home, env=environment, stdout=out, stderr=out, start_new_session=True)
            )
        return log

    try:
        log = begin("server", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui")
        wait_for(lambda: ask(f"{found.api}/health"), seconds=240, log=log)
        log = begin("worker", "worker", "start", "--pool", "gptworks", "--type", "process", "--install-policy", "never")
        wait_for(lambda: ask(f"{found.api}/work_pools/gptworks"), seconds=180, log=log)
        call(found, "prefect", "--no-prompt", "deploy", "--name", "retrain/nightly")
        yield found
    finally:
        for process in reversed(started):
            for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
                try:
                    os.killpg(process.pid, number)
                    process.wait(seconds)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue


def flow_runs(site: Site) -> list[dict[str, Any]]:
    """Those of the deployment, newest first."""
    wanted = {"deployments": {"name": {"any_": ["nightly"]}}, "sort": "EXPECTED_START_TIME_DESC"}
    return list(ask(f"{site.api}/flow_runs/filter", wanted))


def retrained(site: Site, **parameters: Any) -> dict[str, Any]:
    """A watched run of the deployment; what its state says."""
    given = {"preset": "tiny", "overrides": ["prepare.near_duplicates=none"], **parameters}
    own = {"data": {"instructions": str(site.settings.home / "own.jsonl")}}
    call(site, "prefect", "deployment", "run", "retrain/nightly", "--params", json.dumps({**given, **own}), "--watch")
    return dict(flow_runs(site)[0]["state"])


def test_the_nightly_deployment_promotes_skips_starts_early_and_asks(site: Site) -> None:
    site.settings.home.mkdir(parents=True)
    (site.settings.home / "own.jsonl").write_text(rows(range(150)))
    first = retrained(site)
    assert (first["name"], first["message"]) == ("Completed", "the first model: it meets the floors and budgets")
    second = retrained(site)
    assert second["name"] == "Skipped"
    assert "nothing has changed since version 1" in second["message"]
    pages = {artifact["key"]: artifact["data"] for artifact in ask(f"{site.api}/artifacts/filter", {})}
    assert {"gate", "retrain", "pipeline-summary"} <= set(pages)
    check_event(site)
    check_approval(site)


def check_event(site: Site) -> None:
    """Added data starts the deployment with its own parameters; that is the demo's chain, so it is cancelled at once."""
    n_before = len(flow_runs(site))
    (site.settings.home / "more.jsonl").write_text(rows(range(300, 460)))
    assert "gptworks.data.added" in call(site, "flows", "data", "add", str(site.settings.home / "more.jsonl"))
    log = site.settings.home.parent / "server.log"
    wait_for(lambda: len(flow_runs(site)) > n_before, seconds=60, log=log)
    early = flow_runs(site)[0]
    assert early["parameters"]["preset"] == "demo"
    call(site, "prefect", "flow-run", "cancel", early["id"])

    def has_ended() -> bool:
        return ask(f"{site.api}/flow_runs/{early['id']}")["state"]["type"] in ("CANCELLED", "CRASHED", "FAILED")

    wait_for(has_ended, seconds=120, log=log)


def check_approval(site: Site) -> None:
    """A challenger that would be promoted waits for a person, without a process, and is published by the answer."""
    policy = {
        "primary": "text",
        "margins": {},
        "floors": {},
        "budgets": {},
        "require_approval": True,
        "confidence": 0.6,
    }
    given = {
        "preset": "tiny",
        "overrides": ["prepare.near_duplicates=none", "pretrain.train.steps=60"],
        "data": {"instructions": str(site.settings.home / "own.jsonl")},
        "gate": policy,
    }
    call(site, "prefect", "deployment", "run", "retrain/nightly", "--params", json.dumps(given))
    log = site.settings.home.parent / "worker.log"

    def state() -> dict[str, Any]:
        newest = max(flow_runs(site), key=lambda run: str(run["created"]))
        return dict(newest["state"], run=newest["id"])

    wait_for(lambda: state()["type"] == "PAUSED", seconds=600, log=log)
    registry = ModelRegistry(site.settings, MODEL)
    assert registry.aliases() == Aliases(champion=1, challenger=2)
    assert registry.version(2).tags["gptworks.gate.verdict"] == "needs_approval"
    answer = {"run_input": {"approve": True, "reason": "read by two of us"}}
    ask(f"{site.api}/flow_runs/{state()['run']}/resume", answer)
    wait_for(lambda: state()["type"] in ("COMPLETED", "FAILED", "CRASHED"), seconds=600, log=log)
    assert (state()["name"], state()["message"]) == ("Completed", "approved: read by two of us")
    assert registry.aliases() == Aliases(champion=2, previous=1)
