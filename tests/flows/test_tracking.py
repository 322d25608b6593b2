"""Tracking against a real SQLite store: truthful ends, one run per key, no gap and no point twice."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.run_logger import MlflowLogger, flatten
from flows.settings import Settings, read_settings
from flows.spool import MetricSpool, Point
from flows.tracking import TrackingError, connect, is_stop, pipeline_run, stage_run
from gptcore.errors import InterruptedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.flows

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return read_settings({"GPTWORKS_HOME": str(tmp_path_factory.mktemp("home"))})


@pytest.fixture(scope="module")
def client(settings: Settings) -> MlflowClient:
    return connect(settings)


def open_failing(settings: Settings, key: str, error: BaseException) -> None:
    with stage_run(settings, stage="pretrain", name="p", key=key, params={}) as run:
        run.log_metrics({"train/loss": 2.0}, step=1)
        raise error


def test_an_experiment_opens_with_its_table_of_runs(settings: Settings, client: MlflowClient) -> None:
    with stage_run(settings, stage="quantize", name="q", key="kind", params={}):
        pass
    experiment = client.get_experiment_by_name("gptworks/quantize")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_run_tells_what_was_run_on_what_with_which_result(
    settings: Settings, client: MlflowClient, tmp_path: Path
) -> None:
    from matplotlib.figure import Figure

    report = tmp_path / "report.html"
    report.write_text("<p>done</p>")
    params = {"model": {"width": 64, "transforms": [{"kind": "LoRA", "rank": 8}]}, "long": "x" * 7000}
    with pipeline_run(settings, name="demo", key="p1", params={"preset": "demo"}) as parent:
        with stage_run(
            settings,
            stage="pretrain",
            name="pretrain-demo",
            key="k1",
            params=params | {f"n{i:03}": i for i in range(150)},
            tags={"prefect.flow_run_id": "f-1"},
            parent_run_id=parent.run_id,
        ) as run:
            run.log_metrics({"train/loss": 3.0}, step=0)
            run.log_metrics({"train/loss": 2.0, "train/lr": 0.1}, step=1)
            run.log_metrics({"perf/seconds": 4.5})
            run.log_artifact(report)
            run.log_artifact(tmp_path, "all")
            run.log_text("Once upon", "samples/step_000001.txt")
            run.log_figure(Figure(), "figures/loss.png")
            for _ in range(2):
                run.log_table([{"prompt": "a", "reply": "b"}, {"prompt": "c", "score": 1}], "eval/replies.json")
            run.log_dataset("the-verdict", source="the-verdict.txt", digest="ab" * 32, context="training")
            run.set_tags({"gptworks.data": "abab"})
            run.log_environment()
        assert client.get_run(parent.run_id).info.status == "RUNNING"
    done = client.get_run(run.run_id)
    assert done.info.status == "FINISHED"
    assert done.data.params["model.width"] == "64"
    assert done.data.params["model.transforms.0.rank"] == "8"
    assert len(done.data.params["long"]) == 6000
    assert done.data.params["n149"] == "149"
    assert done.data.tags["gptworks.key"] == "k1"
    assert done.data.tags["prefect.flow_run_id"] == "f-1"
    assert done.data.tags["mlflow.parentRunId"] == parent.run_id
    assert done.data.tags["mlflow.runName"] == "pretrain-demo"
    assert done.data.metrics == {"train/loss": 2.0, "train/lr": 0.1, "perf/seconds": 4.5}
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "train/loss")] == [(0, 3.0), (1, 2.0)]
    assert done.inputs is not None
    used = done.inputs.dataset_inputs[0]
    assert (used.dataset.name, used.tags[0].value) == ("the-verdict", "training")
    assert json.loads(used.dataset.source)["sha256"] == "ab" * 32
    artifacts = settings.artifact_root / "gptworks" / "pretrain" / run.run_id / "artifacts"
    table = json.loads((artifacts / "eval" / "replies.json").read_text())
    assert table == {"columns": ["prompt", "reply", "score"], "data": [["a", "b", None], ["c", None, 1]]}
    marks = json.loads(done.data.tags["mlflow.loggedArtifacts"])
    assert marks == [{"path": "eval/replies.json", "type": "table"}], "what MLflow's own log_table would have set"
    assert {path.name for path in artifacts.rglob("*")} >= {"report.html", "step_000001.txt", "loss.png"}
    assert "mlflow==" in (artifacts / "environment.txt").read_text()
    assert run.url.endswith(f"/runs/{run.run_id}")
    assert list(settings.spool.iterdir()) == []


def test_the_end_is_told_truthfully(settings: Settings, client: MlflowClient) -> None:
    from prefect.exceptions import TerminationSignal

    ends: list[tuple[BaseException, str]] = [
        (ValueError("loss is nan"), "FAILED"),
        (SystemExit(1), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (InterruptedRun("stopped at step 3"), "KILLED"),
        (asyncio.CancelledError(), "KILLED"),
        (TerminationSignal(signal=15), "KILLED"),
    ]
    for number, (error, status) in enumerate(ends):
        with pytest.raises(type(error)):
            open_failing(settings, f"end{number}", error)
        found = client.search_runs(_experiments(client), f"tags.`gptworks.key` = 'end{number}'")
        assert [run.info.status for run in found] == [status], error
        assert found[0].data.tags["gptworks.failure"].startswith(type(error).__name__)
        assert found[0].info.end_time is not None
        assert found[0].data.metrics == {"train/loss": 2.0}
        assert is_stop(error) == (status == "KILLED")


def _experiments(client: MlflowClient) -> list[str]:
    return [experiment.experiment_id for experiment in client.search_experiments()]


KILLED = """
import os, signal, sys
from flows.settings import read_settings
from flows.tracking import stage_run
with stage_run(read_settings(), stage="pretrain", name="p", key="crash", params={"a": 1}) as run:
    for step in range(6):
        run.log_metrics({"train/loss": 6.0 - step}, step=step)
        if step == 2:
            run.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_stage_continues_the_same_run_without_gap_or_double(settings: Settings, client: MlflowClient) -> None:
    environ = {"GPTWORKS_HOME": str(settings.home), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    dead = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, env=environ, check=False, capture_output=True)
    assert dead.returncode == -9, dead.stderr
    before = client.search_runs(_experiments(client), "tags.`gptworks.key` = 'crash'")
    assert [run.info.status for run in before] == ["RUNNING"]
    assert len(client.get_metric_history(before[0].info.run_id, "train/loss")) == 3, "three points were sent"
    with stage_run(settings, stage="pretrain", name="p", key="crash", params={"a": 2}) as run:
        for step in range(4, 9):  # training resumes from its checkpoint at step 4
            run.log_metrics({"train/loss": 6.0 - step}, step=step)
        run.log_params({"a": 1, "b": 2})
    assert run.run_id == before[0].info.run_id
    history = client.get_metric_history(run.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(step, 6.0 - step) for step in range(9)]
    after = client.get_run(run.run_id)
    assert after.info.status == "FINISHED"
    assert after.data.params == {"a": "1", "b": "2"}
    assert after.data.tags["gptworks.attempt"] == "2"
    with stage_run(settings, stage="pretrain", name="p", key="crash", params={}) as again:
        pass
    assert again.run_id != run.run_id, "a finished run is not opened again"


def test_a_run_that_was_deleted_is_replaced_with_a_warning(
    settings: Settings, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    with stage_run(settings, stage="pretrain", name="p", key="gone", params={}) as first:
        pass
    client.delete_run(first.run_id)
    for stale in (first.run_id, "0" * 32):
        with stage_run(settings, stage="pretrain", name="p", key="gone", params={}, run_id=stale) as second:
            pass
        assert second.run_id != stale
        assert f"MLflow run {stale}" in caplog.text


def test_a_changed_param_is_told_and_the_first_value_stays(
    settings: Settings, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    with stage_run(settings, stage="pretrain", name="p", key="params", params={"lr": 0.1}) as run:
        run.log_params({"lr": 0.2})
    assert client.get_run(run.run_id).data.params == {"lr": "0.1"}
    assert "param lr stays 0.1" in caplog.text


def test_a_tracking_store_that_cannot_be_reached_is_told_before_any_work(tmp_path: Path) -> None:
    environ = {"GPTWORKS_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": "sqlite:////proc/none/mlflow.db"}
    opening = stage_run(read_settings(environ), stage="pretrain", name="p", key="k", params={})
    with pytest.raises(TrackingError, match=r"/proc/none/mlflow\.db .*cannot be used.*unset MLFLOW_TRACKING_URI"):
        opening.__enter__()


class Server:
    """A receiver of points that can be switched off."""

    def __init__(self) -> None:
        self.up = True
        self.points: list[Point] = []
        self.calls = 0

    def take(self, points: Sequence[Point]) -> None:
        self.calls += 1
        if not self.up:
            raise ConnectionError("connection refused")
        self.points += points


def test_points_are_sent_in_batches_and_the_file_is_gone_when_all_are(tmp_path: Path) -> None:
    server, path = Server(), tmp_path / "unsent-metrics.jsonl"
    spool = MetricSpool(server.take, path=path, every_points=1500, every_seconds=3600)
    for step in range(1499):
        spool.add({"train/loss": 1.0}, step=step)
    assert (server.calls, spool.unsent) == (0, 1499)
    assert len(path.read_text().splitlines()) == 1499
    spool.add({"train/loss": 1.0}, step=1499)
    assert (server.calls, spool.unsent, len(server.points)) == (2, 0, 1500)
    assert not path.exists()


def test_a_server_that_is_away_costs_one_warning_and_no_point(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server, path = Server(), tmp_path / "unsent-metrics.jsonl"
    server.up = False
    with caplog.at_level(logging.WARNING):
        spool = MetricSpool(server.take, path=path, every_points=2, every_seconds=0.01)
        for step in range(20):
            spool.add({"train/loss": float(step)}, step=step)
            time.sleep(0.002)
        assert spool.flush() is False
    assert [record.message for record in caplog.records] == [
        f"metrics cannot be sent (connection refused); training goes on, they are kept in {path}"
    ]
    assert 2 <= server.calls < 8, "attempts become rarer while the server is away"
    server.up = True
    later = MetricSpool(server.take, path=path)
    later.add({"train/loss": 5.0}, step=5)
    assert later.flush() is True
    assert [point.step for point in server.points] == list(range(20))


def test_a_disk_that_refuses_the_waiting_points_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full to write to")
    server, path = Server(), tmp_path / "unsent-metrics.jsonl"
    spool = MetricSpool(server.take, path=path)
    path.symlink_to("/dev/full")
    for step in range(3):
        spool.add({"train/loss": 1.0}, step=step)
    assert [record.message.partition(" (")[0] for record in caplog.records] == [f"{path} cannot be written"]
    assert spool.flush() is True
    assert len(server.points) == 3


def test_a_line_cut_short_by_a_crash_is_left_out_and_logged_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "unsent-metrics.jsonl"
    path.write_text('["train/loss", 3.0, 1, 1000]\n["train/lo')
    server = Server()
    spool = MetricSpool(server.take, path=path)
    spool.add({"train/loss": 2.0}, step=2)
    assert [json.loads(line)[:3] for line in path.read_text().splitlines()] == [
        ["train/loss", 3.0, 1],
        ["train/loss", 2.0, 2],
    ]
    assert "line 2 is incomplete and was left out" in caplog.text


def test_a_summary_becomes_the_latest_value_and_is_not_repeated(tmp_path: Path) -> None:
    server = Server()
    spool = MetricSpool(server.take, path=tmp_path / "s.jsonl", last={"val/loss": Point("val/loss", 2.0, 80, 1000)})
    spool.add({"val/loss": 1.5, "perf/seconds": 9.0}, step=None)
    spool.add({"val/loss": 1.5, "perf/seconds": 9.0}, step=None)
    spool.flush()
    assert [(point.name, point.value, point.step) for point in server.points] == [
        ("val/loss", 1.5, 80),
        ("perf/seconds", 9.0, 0),
    ]


def test_what_a_server_refused_is_listed_at_the_end(
    client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = MetricSpool(Server().take, path=tmp_path / "s.jsonl")
    logger = MlflowLogger(client, spool, run_id="0" * 32, url="")
    logger.log_text("hello", "samples/a.txt")
    logger.set_tags({"a": "b"})
    logger.log_params({"a": 1})
    logger.close()
    assert f"run {'0' * 32} lacks in MLflow: samples/a.txt, 1 tags, 1 params" in caplog.text


def test_nested_settings_become_sorted_dotted_names() -> None:
    nested = {"b": {"x": None, "list": [1, 2], "none": {}}, "a": True, "kinds": [{"kind": "LoRA"}, {"kind": "Int8"}]}
    assert flatten(nested) == {
        "a": "true",
        "b.list": "[1, 2]",
        "b.none": "{}",
        "b.x": "null",
        "kinds.0.kind": "LoRA",
        "kinds.1.kind": "Int8",
    }
