"""Tracking against a real SQLite store: truthful ends, one run per key, no gap and no point twice."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.settings import Settings, read_settings
from flows.tracking.journal import ENDED_WITHOUT_A_WORD, journals, new_run_id
from flows.tracking.logger import flatten
from flows.tracking.runs import TrackingError, connect, is_stop, pipeline_run, stage_run
from flows.tracking.shipment import Shipment
from flows.tracking.sync import find_mlflow_id, forget, sync, waiting
from gptcore.errors import InterruptedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.flows

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def settings(tracked_home: Path) -> Settings:
    return read_settings({"GPTWORKS_HOME": str(tracked_home)})


@pytest.fixture(scope="module")
def client(settings: Settings) -> MlflowClient:
    return connect(settings)


def open_failing(
    settings: Settings, key: str, error: BaseException, *, steps: Sequence[int] = (7,), run_id: str | None = None
) -> None:
    with stage_run(settings, stage="pretrain", name="p", key=key, params={}, run_id=run_id) as run:
        for step in steps:
            run.log_metrics({"train/loss": 9.0 - step}, step=step)
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
from flows.tracking.runs import stage_run
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


def test_a_store_that_is_away_all_the_while_is_sent_everything_by_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = tmp_path / "away"
    away.write_text("a file where the store's folder is to be")
    settings = read_settings({"GPTWORKS_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": f"sqlite:///{away}/mlflow.db"})
    with pytest.raises(TrackingError, match=r"away/mlflow\.db .*cannot be used.*unset MLFLOW_TRACKING_URI"):
        connect(settings)
    with pipeline_run(settings, name="all", key="p", params={"preset": "demo"}) as parent:
        with stage_run(
            settings, stage="pretrain", name="p", key="k", params={"lr": 0.1}, parent_run_id=parent.local_id
        ) as run:
            for step in range(50):
                run.log_metrics({"train/loss": 50.0 - step}, step=step)
            run.log_text("Once upon", "samples/a.txt")
            assert run.run_id == run.local_id, "nobody has given it another one"
            assert run.url == ""
        parent.set_tags({"gptworks.run.pretrain": run.local_id})
    assert "MLflow cannot be reached" in caplog.text
    assert "gptworks runs sync" in caplog.text
    assert [(each.stage, each.run_id, each.owned) for each in waiting(settings)] == [
        ("pipeline", None, False),
        ("pretrain", None, False),
    ]
    away.unlink()
    assert sync(settings) == []
    client, run_id = connect(settings), find_mlflow_id(settings, run.local_id)
    assert run_id is not None
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.1"}
    history = client.get_metric_history(run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(step, 50.0 - step) for step in range(50)]
    assert found.info.start_time <= history[0].timestamp, "when it ran, not when it was sent"
    assert [file.path for file in client.list_artifacts(run_id, "samples")] == ["samples/a.txt"]
    outer = client.get_run(found.data.tags["mlflow.parentRunId"])
    assert outer.data.tags["gptworks.local_run"] == parent.local_id
    assert outer.data.tags["gptworks.run.pretrain"] == run_id, "MLflow knows its own ids alone"
    assert list(settings.spool.iterdir()) == []


def test_sending_a_journal_again_changes_nothing(settings: Settings, client: MlflowClient) -> None:
    with pytest.raises(ValueError, match="stop here"):
        open_failing(settings, "again", ValueError("stop here"))
    journal = next(each for each in journals(settings.spool) if (each.header() or {})["key"] == "again")
    run_id = journal.state().run_id
    assert run_id is not None
    before = client.get_run(run_id), client.get_metric_history(run_id, "train/loss")
    journal.keep_state(replace(journal.state(), facts=0, settled=0))  # as after a crash between a call and its record
    assert sync(settings) == []
    after = client.get_run(run_id), client.get_metric_history(run_id, "train/loss")
    assert [point.to_dictionary() for point in after[1]] == [point.to_dictionary() for point in before[1]]
    assert after[0].data.to_dictionary() == before[0].data.to_dictionary()
    assert (after[0].info.status, after[0].info.end_time) == (before[0].info.status, before[0].info.end_time)


def test_a_run_whose_journal_was_forgotten_goes_on_behind_what_mlflow_has(
    settings: Settings, client: MlflowClient
) -> None:
    run_id = new_run_id()
    for steps in ((0, 1, 2), (1, 2, 3, 4)):
        with pytest.raises(ValueError, match="stop"):
            open_failing(settings, "old", ValueError("stop"), steps=steps, run_id=run_id)
        assert forget(settings, older_than_days=1) == 0
        assert forget(settings, older_than_days=-1) >= 1
    found = client.search_runs(_experiments(client), "tags.`gptworks.key` = 'old'")
    assert [each.data.tags["gptworks.attempt"] for each in found] == ["2"]
    history = client.get_metric_history(found[0].info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(step, 9.0 - step) for step in range(5)]


def test_a_process_that_died_is_told_as_killed_by_the_next_start(settings: Settings, client: MlflowClient) -> None:
    environ = {"GPTWORKS_HOME": str(settings.home), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    script = KILLED.replace('"crash"', '"died"')
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environ, check=False, capture_output=True)
    (left,) = (each for each in waiting(settings) if each.key == "died")
    assert not left.owned
    assert sync(settings) == []
    run_id = find_mlflow_id(settings, left.local_id)
    assert run_id is not None
    found = client.get_run(run_id)
    assert found.info.status == "KILLED"
    assert found.data.tags["gptworks.failure"] == ENDED_WITHOUT_A_WORD
    assert len(client.get_metric_history(run_id, "train/loss")) == 6


def test_who_waits_for_everything_finds_it_recorded(
    settings: Settings, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="stop here"):
        open_failing(settings, "slowly", ValueError("stop here"))
    journal = next(each for each in journals(settings.spool) if (each.header() or {})["key"] == "slowly")
    journal.keep_state(replace(journal.state(), settled=0))
    let_go = Shipment.let_go

    def slowly(shipment: Shipment) -> None:
        time.sleep(0.5)  # a busy disk
        let_go(shipment)

    monkeypatch.setattr(Shipment, "let_go", slowly)
    assert sync(settings) == []


def test_what_mlflow_refuses_is_listed_and_holds_nothing_up(
    settings: Settings, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    with stage_run(settings, stage="pretrain", name="p", key="refused", params={}) as run:
        run.log_metrics({"a": 1.0, "not?allowed": 2.0, "b": 3.0}, step=1)
        run.log_text("x" * 10, "a.txt")
    assert client.get_run(run.run_id).data.metrics == {"a": 1.0, "b": 3.0}
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert f"run {run.run_id} lacks in MLflow: metric not?allowed" in caplog.text


def test_a_run_that_is_deleted_while_it_is_written_becomes_a_new_one(settings: Settings, client: MlflowClient) -> None:
    with stage_run(settings, stage="pretrain", name="p", key="deleted", params={"a": 1}) as run:
        run.log_metrics({"train/loss": 2.0}, step=1)
        assert run.flush()
        first = run.run_id
        client.delete_run(first)
        run.log_metrics({"train/loss": 1.0}, step=2)
    assert run.run_id != first
    assert client.get_run(run.run_id).data.params == {"a": "1"}
    assert len(client.get_metric_history(run.run_id, "train/loss")) == 2


def test_two_processes_with_one_key_have_a_run_each(settings: Settings) -> None:
    with (
        pipeline_run(settings, name="one", key="same", params={}) as one,
        pipeline_run(settings, name="two", key="same", params={}) as two,
    ):
        assert one.local_id != two.local_id


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
