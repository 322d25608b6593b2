"""Sweeps as users run them: trials in processes of their own, side by side in MLflow. By ``make test-all``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.settings import Settings, environment, read_settings
from flows.tracking.runs import connect

if TYPE_CHECKING:
    from mlflow.entities import Run

pytestmark = [pytest.mark.flows, pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
LR = "pretrain.train.optimizer.lr"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return read_settings({"GPTWORKS_HOME": str(tmp_path_factory.mktemp("home"))})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("\n".join(f"line {i} of {i * i} and {i % 7}" for i in range(20_000)))
    return text


def run(settings: Settings, corpus: Path, *options: str, code: int = 0) -> str:
    command = [
        sys.executable,
        "-m",
        "flows",
        "sweep",
        "pretrain",
        "--preset",
        "tiny",
        "--corpus",
        str(corpus),
        *options,
    ]
    environ = {**environment(settings), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def sweeps(settings: Settings) -> list[tuple[Run, list[Run]]]:
    """Every sweep with its trials, oldest first."""
    client = connect(settings)
    experiment = client.get_experiment_by_name("gptworks/sweep")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    parents = [each for each in found if "mlflow.parentRunId" not in each.data.tags]
    return [(p, [t for t in found if t.data.tags.get("mlflow.parentRunId") == p.info.run_id]) for p in parents]


def test_a_grid_has_a_run_for_each_trial_ready_for_parallel_coordinates(settings: Settings, corpus: Path) -> None:
    out = run(settings, corpus, "--vary", f"{LR}=1e-3,1e-2", "--vary", "seed=1,2", "--workers", "2")
    assert "(best)" in out
    parent, trials = sweeps(settings)[-1]
    assert parent.info.status == "FINISHED"
    assert (parent.data.metrics["sweep/trials"], parent.data.metrics["sweep/failed"]) == (4, 0)
    good = [each for each in trials if each.info.status == "FINISHED"]
    assert len(good) == len(trials) == 4
    assert all(set(each.data.params) == {LR, "seed"} and set(each.data.metrics) == {"objective"} for each in good)
    client = connect(settings)
    for each in good:
        stage = client.get_run(each.data.tags["gptworks.run.pretrain"])
        assert stage.data.metrics["val/loss"] == each.data.metrics["objective"]
        assert stage.data.params["pretrain.train.optimizer.lr"] == str(float(each.data.params[LR]))
    assert parent.data.metrics["objective"] == min(each.data.metrics["objective"] for each in good)
    assert not (settings.home / "sweeps").exists() or not list((settings.home / "sweeps").glob("*/trials.jsonl"))


def test_a_sweep_of_which_every_trial_fails_says_why(settings: Settings, corpus: Path) -> None:
    said = run(settings, corpus, "--vary", f"{LR}=1e-3", "--objective", "val/los", code=12)
    assert "SweepError: all 1 trials failed" in said
    assert "no metric 'val/los'; did you mean 'val/loss'?" in said
    parent, trials = sweeps(settings)[-1]
    assert [each.info.status for each in (parent, *trials)] == ["FAILED", "FAILED"]


def test_a_value_that_cannot_be_is_refused_before_anything_is_made(settings: Settings, corpus: Path) -> None:
    assert "expected lr to be above 0, got -1.0" in run(settings, corpus, "--vary", f"{LR}=1e-3,-1", code=2)


def test_a_search_runs_on_a_dask_cluster(settings: Settings, corpus: Path) -> None:
    pytest.importorskip("optuna", reason="the sweep extra is not installed")
    pytest.importorskip("prefect_dask", reason="the dask extra is not installed")
    vary = ("--vary", f"{LR}=1e-4:1e-1:log")
    run(settings, corpus, *vary, "--trials", "3", "--workers", "2", "--runner", "dask")
    parent, trials = sweeps(settings)[-1]
    assert parent.data.params["runner"] == "dask"
    assert len(trials) == 3
    assert {each.info.status for each in trials} == {"FINISHED"}
