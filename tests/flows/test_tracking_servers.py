"""Trainings while a real MLflow server is away: what MLflow has in the end is what an undisturbed run has.

By ``make test-all``: two servers have to start.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.chain.engine import Chain
from flows.recipes.resolve import resolve, with_own_data
from flows.settings import Settings, environment, read_settings
from flows.stages.outcome import Outcome
from flows.stages.pipeline import Pipeline
from flows.tracking.runs import TrackingError, connect
from flows.tracking.sync import find_mlflow_id, sync, waiting
from gptcore.train import Progress

pytestmark = [pytest.mark.flows, pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 30
History = dict[str, list[tuple[int, float]]]


class MlflowServer:
    """``mlflow server`` on SQLite, which can be killed and started again on the same port and store."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
        command += ["--port", str(self.port), "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "kept")]
        environ = {**environment(read_settings({"GPTWORKS_HOME": str(self.folder)})), **os.environ}
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
        environ.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                command, env=environ, cwd=self.folder, stdout=output, stderr=output, start_new_session=True
            )
        for _ in range(1200):
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                assert self._process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.1)
        raise TimeoutError((self.folder / "server.log").read_text())

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    one = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    yield one
    one.kill()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("\n".join(f"line {i} of {i * i} and {i % 7}" for i in range(20_000)))
    overrides = [f"pretrain.train.steps={STEPS}", "pretrain.train.log_every=1"]
    return with_own_data(resolve("tiny", overrides=overrides), corpus=[text])


def train(config: Pipeline, settings: Settings, at: dict[int, Callable[[], object]]) -> Outcome:
    """Prepare and pretrain; ``at`` says what happens at which step."""
    left = dict(at)

    @contextmanager
    def progress(stage: str) -> Iterator[Callable[[Progress], None]]:
        def tell(told: Progress) -> None:
            if stage == "pretrain" and told.step in left:
                left.pop(told.step)()

        yield tell

    outcome = Chain(config, settings, None, progress).ensure("pretrain")
    assert outcome is not None
    assert not left
    return outcome


def history(settings: Settings, outcome: Outcome) -> tuple[str, History, list[str]]:
    """Status, points of the metrics that two equal runs share, and artifacts of a run in MLflow."""
    assert outcome.run_id is not None
    client, run_id = connect(settings), find_mlflow_id(settings, outcome.run_id)
    assert run_id is not None
    run = client.get_run(run_id)
    points = {
        name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
        for name in run.data.metrics
        if not name.startswith("perf/")
    }
    same = f"tags.`gptworks.key` = '{outcome.key}' and tags.`gptworks.home` = '{settings.home}'"
    same_key = client.search_runs([run.info.experiment_id], same)
    assert len(same_key) == 1, "one run for a key"
    return run.info.status, points, sorted(file.path for file in client.list_artifacts(run_id, "run/checkpoint"))


@pytest.fixture(scope="module")
def undisturbed(config: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, History, list[str]]:
    settings = read_settings({"GPTWORKS_HOME": str(tmp_path_factory.mktemp("undisturbed"))})
    found = history(settings, train(config, settings, {}))
    assert [step for step, _ in found[1]["train/loss"]][:STEPS] == list(range(1, STEPS + 1))
    assert found[0] == "FINISHED"
    return found


def home(folder: Path, server: MlflowServer) -> Settings:
    return read_settings({"GPTWORKS_HOME": str(folder), "MLFLOW_TRACKING_URI": server.url})


def test_a_server_that_is_down_for_the_whole_run(
    config: Pipeline, undisturbed: tuple[str, History, list[str]], server: MlflowServer, tmp_path: Path
) -> None:
    server.kill()
    settings = home(tmp_path, server)
    outcome = train(config, settings, {})
    assert outcome.run_id is not None
    assert outcome.run_id.startswith("gw-")
    assert len(waiting(settings)) == 2
    with pytest.raises(TrackingError, match=f"MLflow at {server.url}"):
        sync(settings)
    server.start()
    assert sync(settings) == []
    assert history(settings, outcome) == undisturbed


def test_a_server_that_is_down_from_the_start_and_comes_during_the_run(
    config: Pipeline, undisturbed: tuple[str, History, list[str]], server: MlflowServer, tmp_path: Path
) -> None:
    server.kill()
    settings = home(tmp_path, server)
    outcome = train(config, settings, {STEPS // 2: server.start})
    sync(settings)
    assert history(settings, outcome) == undisturbed


def test_a_server_that_is_killed_during_the_run_and_comes_again(
    config: Pipeline, undisturbed: tuple[str, History, list[str]], server: MlflowServer, tmp_path: Path
) -> None:
    server.start()
    settings = home(tmp_path, server)
    outcome = train(config, settings, {STEPS // 3: server.kill, 2 * STEPS // 3: server.start})
    sync(settings)
    assert history(settings, outcome) == undisturbed


def test_a_server_that_takes_connections_and_answers_nothing(
    config: Pipeline, undisturbed: tuple[str, History, list[str]], server: MlflowServer, tmp_path: Path
) -> None:
    server.start()
    settings = home(tmp_path, server)
    outcome = train(config, settings, {STEPS // 3: lambda: server.signal(signal.SIGSTOP)})
    server.signal(signal.SIGCONT)
    sync(settings)
    assert history(settings, outcome) == undisturbed
