"""The whole chain as users run it: once from nothing, then again, forced, judged, interrupted. One folder for all."""

from __future__ import annotations

import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest

from eval.testing.fake_ollama import FakeOllama
from flows.cli.entry import main
from flows.settings import Settings, read_settings
from flows.stages.every import STAGES
from flows.tracking.runs import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

pytestmark = [pytest.mark.flows, pytest.mark.timeout(420)]
ROOT = Path(__file__).resolve().parents[2]


class Ran(NamedTuple):
    """One command."""

    code: int
    out: str
    err: str


class Table(NamedTuple):
    """A closing table: stage -> metric, value, seconds, MLflow run."""

    rows: dict[str, list[str]]
    report: Path


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The folder of this module, named in the environment and nowhere else; nobody answers as judge."""
    # Prefect sets up logging when it is imported; absl, which came before it, then closes the stream of its handler,
    # and that would be pytest's own if it happened while capsys stands in for it
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    importlib.import_module("prefect.main")
    with socket.socket() as probe:  # kept open but not listening, so that nobody else takes the port
        probe.bind(("127.0.0.1", 0))
        before = dict(os.environ)
        os.environ |= {
            "GPTWORKS_HOME": str(tmp_path_factory.mktemp("home")),
            "OLLAMA_HOST": f"127.0.0.1:{probe.getsockname()[1]}",
            "PYTHONPATH": str(ROOT),
        }
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        yield read_settings()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def first(settings: Settings) -> Ran:
    """The first run, from nothing, as a process of its own."""
    # Prefect's database is the session's, so that the commands in this process find it migrated
    command = [sys.executable, "-m", "flows", "pipeline", "--preset", "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=settings.home)
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def client(first: Ran, settings: Settings) -> MlflowClient:
    assert first.code == 0, first.err
    return connect(settings)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ran:
    """A command in this process, which spares the start of another one."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr()
    assert end.value.code is None or isinstance(end.value.code, int)
    return Ran(end.value.code or 0, printed.out, printed.err)


def table(out: str) -> Table:
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    report = re.search(r"^report: +(.+)$", out, re.MULTILINE)
    assert report is not None, out
    return Table({stage: rest for stage, *rest in cells if stage}, Path(report[1]))


def all_runs(client: MlflowClient, stage: str) -> list[Run]:
    """Newest first."""
    experiment = client.get_experiment_by_name(f"gptworks/{stage}")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"]))


def newest(client: MlflowClient, stage: str) -> Run:
    return all_runs(client, stage)[0]


def runs_of(client: MlflowClient, stage: str, parent: str) -> list[Run]:
    experiment = client.get_experiment_by_name(f"gptworks/{stage}")
    assert experiment is not None
    query = f"tags.`mlflow.parentRunId` = '{parent}'"
    return list(client.search_runs([experiment.experiment_id], filter_string=query))


def manifests(settings: Settings) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in settings.store.glob("*/*/manifest.json")}


def test_the_first_run_ends_with_table_report_and_the_command_for_the_runs(
    first: Ran, settings: Settings, client: MlflowClient
) -> None:
    shown = table(first.out)
    assert tuple(shown.rows) == tuple(STAGES)
    for stage, (metric, value, seconds, run_id) in shown.rows.items():
        assert metric, stage
        assert re.search(r"\d", value), stage
        assert float(seconds) > 0, stage
        found = client.get_run(run_id)
        assert found.info.status == "FINISHED"
        assert found.data.tags["gptworks.stage"] == stage
    assert shown.report.is_file()
    assert shown.report.is_relative_to(settings.home / "reports")
    command = re.search(r"^MLflow UI: +(.+)$", first.out, re.MULTILINE)
    assert command is not None
    assert command[1].endswith(f"mlflow ui --backend-store-uri {settings.mlflow_uri}")
    assert "Traceback" not in first.err
    assert "pretrain: 6/6 train/loss" in first.err


def test_the_parent_run_holds_every_headline_and_the_report(first: Ran, client: MlflowClient) -> None:
    parent = newest(client, "pipeline")
    assert parent.info.status == "FINISHED"
    shown = table(first.out)
    for stage, (*_, run_id) in shown.rows.items():
        assert parent.data.tags[f"gptworks.run.{stage}"] == run_id
        tags = client.get_run(run_id).data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert f"[{stage}](#/runs/{run_id})" in parent.data.tags["mlflow.note.content"]
        # the server that the command starts for itself has no pages that a link could lead to
        assert "prefect.flow_run_id" in tags
        assert "prefect.flow_run_url" not in tags
    assert {"pretrain/val/perplexity", "finetune-classifier/test/accuracy", "evaluate/test/rouge_l"} <= set(
        parent.data.metrics
    )
    assert parent.data.tags["gptworks.preset"] == "tiny"
    assert "report.html" in {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    # the time of a stage is the same figure in its own run and in the parent's
    pretrained = client.get_run(shown.rows["pretrain"][3]).data.metrics["perf/seconds"]
    assert parent.data.metrics["pretrain/perf/seconds"] == pretrained


def test_without_a_judge_table_and_mlflow_say_so(first: Ran, settings: Settings, client: MlflowClient) -> None:
    said = f"judge: skipped, no Ollama at {settings.ollama_host}"
    assert said in " ".join(table(first.out).rows["evaluate"][1].split())
    assert said in newest(client, "pipeline").data.tags["mlflow.note.content"]
    tag = newest(client, "evaluate").data.tags["gptworks.judge"]
    assert tag.startswith(f"skipped no Ollama at {settings.ollama_host} (")


def test_the_second_run_makes_nothing_anew(
    first: Ran, settings: Settings, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    before = manifests(settings)
    assert len(before) == len(STAGES)
    second = run(capsys, "pipeline", "--preset", "tiny")
    assert second.code == 0, second.err
    shown, was = table(second.out), table(first.out)
    assert tuple(shown.rows) == tuple(STAGES)
    for stage, (metric, value, seconds, run_id) in shown.rows.items():
        assert seconds == "unchanged", stage
        assert [metric, value, run_id] == [was.rows[stage][0], was.rows[stage][1], was.rows[stage][3]]
    assert shown.report == was.report
    assert manifests(settings) == before


def test_a_dry_run_and_the_list_of_runs_tell_what_is_there(
    client: MlflowClient, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = run(capsys, "pipeline", "--preset", "tiny", "--dry-run", "--set", "compress.group_size=16").out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in planned.splitlines() if "│" in line]
    states = {stage: state for stage, state, *_ in cells}
    assert {stage for stage, state in states.items() if state == "exists"} == set(STAGES) - {"compress"}
    assert states["compress"] == "will run"
    listed = run(capsys, "runs", "--stage", "pretrain").out
    assert newest(client, "pretrain").info.run_id[:8] in listed
    assert "FINISHED" in listed
    mistyped = run(capsys, "runs", "--stage", "pretrian")
    assert mistyped.code == 2
    assert "unknown stage 'pretrian'; did you mean 'pretrain'? (known: compress, evaluate, finetune-" in mistyped.err


def test_doctor_finds_everything_but_the_judge(
    client: MlflowClient, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = run(capsys, "doctor")
    assert checked.code == 0, checked.out
    assert re.search(r"MLflow +│ ok", checked.out)
    assert re.search(r"Prefect +│ ok", checked.out)
    assert re.search(r"judge +│ absent", checked.out)


def test_force_makes_one_stage_anew_with_the_same_key_and_figures(
    first: Ran, settings: Settings, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    before = manifests(settings)
    old = newest(client, "pretrain")
    forced = run(capsys, "pretrain", "--preset", "tiny", "--force")
    assert forced.code == 0, forced.err
    after = manifests(settings)
    assert before.keys() == after.keys()
    assert [path.parent.parent.name for path in after if after[path] != before[path]] == ["pretrain"]
    new = newest(client, "pretrain")
    assert new.info.run_id != old.info.run_id
    assert new.data.metrics["val/loss"] == pytest.approx(old.data.metrics["val/loss"], rel=1e-6)
    assert re.search(rf"^pretrain: \S+ \(\d+\.\d s\), MLflow run {new.info.run_id}$", forced.out, re.MULTILINE)


@pytest.mark.slow
def test_two_processes_make_the_same_output_under_the_same_key_in_one_tracked_run(
    first: Ran, settings: Settings, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    before, old, runs = manifests(settings), newest(client, "pretrain"), len(all_runs(client, "pretrain"))
    together = run(capsys, "pretrain", "--preset", "tiny", "--force", "--nproc", "2")
    assert together.code == 0, together.err
    assert "pretrain: 6/6 train/loss" in together.err
    after = manifests(settings)
    assert before.keys() == after.keys()
    assert [path.parent.parent.name for path in after if after[path] != before[path]] == ["pretrain"]
    assert len(all_runs(client, "pretrain")) == runs + 1
    new = newest(client, "pretrain")
    assert (new.info.status, new.data.params["n_processes"], old.data.params["n_processes"]) == ("FINISHED", "2", "1")
    assert set(new.data.metrics) == set(old.data.metrics)
    for name in new.data.metrics:
        if not name.startswith("perf/"):
            assert new.data.metrics[name] == pytest.approx(old.data.metrics[name], rel=1e-5), name
            points = [
                [point.step for point in client.get_metric_history(each.info.run_id, name)] for each in (old, new)
            ]
            assert points[0] == points[1], name
            assert len(points[1]) == len(set(points[1])), name
    assert newest(client, "pretrain").data.tags["gptworks.attempt"] == "1"
    assert not list(settings.store.rglob("*.launch"))


def test_a_required_judge_that_does_not_answer_is_an_error_with_the_command_that_mends_it(
    client: MlflowClient, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = run(capsys, "pipeline", "--preset", "tiny", "--judge", "required")
    assert refused.code == 6
    told = " ".join(refused.err.split())
    assert f"error: JudgeUnavailable: no Ollama at {settings.ollama_host} (" in told
    assert "start it: ollama serve" in told
    assert "Traceback" not in refused.err
    parent = newest(client, "pipeline")
    assert parent.info.status == "FAILED"
    assert parent.data.tags["gptworks.failure"].startswith("JudgeUnavailable: no Ollama at")
    # told before the first stage, not after the last training
    assert "JudgeUnavailable: no Ollama" in " ".join(run(capsys, "runs", "--limit", "1").out.split())
    children = [run for stage in STAGES for run in runs_of(client, stage, parent.info.run_id)]
    assert children == []


def test_a_judge_that_answers_scores_the_answers_and_nothing_else_is_made_anew(
    client: MlflowClient, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeOllama(score=lambda *_: 70) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        judged = run(capsys, "pipeline", "--preset", "tiny")
        assert judged.code == 0, judged.err
        assert len(server.calls) > 0
    shown = table(judged.out)
    assert [stage for stage, row in shown.rows.items() if row[2] != "unchanged"] == ["evaluate"]
    evaluated = client.get_run(shown.rows["evaluate"][3])
    unscored = evaluated.data.metrics["judge/unscored"]
    assert unscored < 4
    assert evaluated.data.metrics["judge/mean"] == 70
    # a judge that says 70 of everything is no judge, and the table says so
    assert "judge not validated: identity_mean 70" in shown.rows["evaluate"][1]
    assert newest(client, "pipeline").data.metrics["evaluate/judge/mean"] == 70


def _first_metrics(settings: Settings) -> str:
    """What the training has written of its history: the file itself is there before the first step."""
    return "".join(path.read_text() for path in settings.store.glob("pretrain/*.work/run/metrics.jsonl"))


def press_ctrl_c_while_it_trains(settings: Settings) -> None:
    deadline = time.monotonic() + 150
    while not _first_metrics(settings) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def terminated(command: list[str], settings: Settings, folder: Path) -> tuple[int, str]:
    """Exit code and words of a command that got SIGTERM when its training had begun."""
    with (folder / "err").open("w") as err:
        process = subprocess.Popen([sys.executable, "-m", "flows", *command], stdout=err, stderr=err, cwd=folder)
        try:
            deadline = time.monotonic() + 150
            while not _first_metrics(settings) and process.poll() is None:
                assert time.monotonic() < deadline, (folder / "err").read_text()
                time.sleep(0.05)
            process.terminate()
            code = process.wait(60)
        finally:
            process.kill()
            process.wait()
    told = " ".join((folder / "err").read_text().split())
    assert "Traceback" not in told
    return code, told


def test_an_interrupted_stage_goes_on_in_the_same_run(
    client: MlflowClient, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ("--set", "pretrain.train.steps=150", "--set", "pretrain.train.checkpoint_every=1000000")
    command = ["pretrain", "--preset", "tiny", *steps]
    person = threading.Thread(target=press_ctrl_c_while_it_trains, args=(settings,))
    person.start()
    begun_run = run(capsys, *command)
    person.join()
    told = " ".join(begun_run.err.split())
    assert begun_run.code == 75, told
    assert "Traceback" not in told
    stopped = re.search(r"stopped by SIGINT after step (\d+) of 150", told)
    assert stopped, told
    assert "run the same command again to resume" in told
    begun = newest(client, "pretrain")
    assert begun.info.status == "KILLED"
    assert begun.data.tags["gptworks.failure"].startswith("InterruptedRun: stopped by SIGINT")
    assert int(stopped[1]) < 150

    resumed = run(capsys, *command)
    assert resumed.code == 0, resumed.err
    ended = newest(client, "pretrain")
    assert ended.info.run_id == begun.info.run_id
    assert ended.info.status == "FINISHED"
    assert ended.data.tags["gptworks.attempt"] == "2"
    assert "gptworks.failure" not in ended.data.tags
    points = client.get_metric_history(ended.info.run_id, "train/loss")
    logged = [point.step for point in points]
    assert logged == sorted(set(logged))
    assert logged[-1] == 150


@pytest.mark.slow
def test_sigterm_ends_all_processes_of_a_training_after_saving(
    client: MlflowClient, settings: Settings, tmp_path: Path
) -> None:
    steps = ("--set", "pretrain.train.steps=1500", "--set", "pretrain.train.checkpoint_every=1000000")
    command = ["pretrain", "--preset", "tiny", "--nproc", "2", *steps]
    code, told = terminated(command, settings, tmp_path)
    assert code == 75, told
    assert "error: InterruptedRun: pretrain was stopped; the same command resumes it" in told
    [work] = settings.store.glob("pretrain/*.work")
    assert len(list((work / "run/checkpoints").iterdir())) == 1
    begun = newest(client, "pretrain")
    assert begun.info.status == "KILLED"
    assert begun.data.tags["gptworks.key"] == work.stem
    left = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(work) in " ".join(process.info["cmdline"] or [])
    ]
    assert left == []
