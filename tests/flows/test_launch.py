"""In how many processes a training runs, as a value; and the events of its processes."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.launch.events import EventReader, EventWriter, WarningHandler, to_error, to_event
from flows.launch.launch import Launch, LaunchError
from flows.launch.machines import join, leading
from gptcore.errors import ConfigError, DataError, InterruptedRun, TokenizerMismatch
from gptcore.train import MemoryLogger, Progress


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nnodes": 2}, "--nnodes is 2, but --rdzv is missing"),
        ({"rdzv": "node1:29500"}, "--rdzv is 'node1:29500', but --nnodes is 1: one machine meets nobody"),
        ({"nnodes": 2, "rdzv": "node1"}, "--rdzv: expected HOST:PORT, as in node1:29500, got 'node1'"),
        ({"nnodes": 2, "rdzv": "node1:70000"}, "--rdzv: expected HOST:PORT, as in node1:29500, got 'node1:70000'"),
        ({"parallel": "fsdp"}, "--parallel is 'fsdp', but there is one process"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_cure(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Launch(**given)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("given", [{"nproc": 0}, {"max_restarts": -1}, {"parallel": "pipeline"}, {"nprocs": 2}])
def test_what_cannot_be_is_refused_by_the_schema_that_a_server_has(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Launch.model_validate(given)
    schema = Launch.model_json_schema()
    assert schema["properties"]["nproc"]["minimum"] == 1
    assert schema["properties"]["parallel"]["enum"] == ["ddp", "fsdp"]
    assert schema["additionalProperties"] is False


def test_a_launch_reads_as_a_person_would_say_it() -> None:
    assert str(Launch()) == "1 process"
    assert str(Launch(nproc=2, max_restarts=3)) == "2 processes, ddp, restarted up to 3 times"
    many = Launch(nproc=8, nnodes=4, rdzv="node1:29500", parallel="fsdp")
    assert str(many) == "4 machines that meet at node1:29500, here 8 processes, fsdp"
    assert [launch.alone for launch in (Launch(), Launch(max_restarts=1), Launch(nproc=2), many)] == [True] + 3 * [
        False
    ]


def test_a_process_of_torchrun_is_told_to_be_started_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    Launch().check()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ConfigError, match="start it by itself, with --nproc: it calls torchrun where it trains"):
        Launch().check()


def test_a_meeting_point_that_is_taken_is_refused_and_one_where_nobody_leads_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        rdzv = f"127.0.0.1:{taken.getsockname()[1]}"
        opening = leading(Launch(nnodes=2, rdzv=rdzv))
        with pytest.raises(LaunchError, match=rf"{rdzv} cannot be opened .*this machine as the others know it"):
            opening.__enter__()
    with pytest.raises(LaunchError, match=rf"nobody leads at {rdzv} .*start the command there"):
        join(rdzv, nproc=1, patience=0.1)


def test_what_a_process_says_is_heard_once_and_in_its_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, shown = MemoryLogger(), list[Progress]()
    writer, reader = EventWriter(tmp_path / "rank-0.jsonl"), EventReader(tmp_path, log, shown.append)
    reader.read()
    writer.log_params({"n_steps": 9, "device": "cpu"})
    writer.log_metrics({"train/loss": 2.5}, step=1)
    writer.progress(Progress(1, 9, {"train/loss": 2.5}))
    reader.read()
    writer.log_metrics({"val/loss": float("nan")}, step=2)
    writer.log_metrics({"perf/seconds": 1.0})
    writer.log_artifact(tmp_path, "folder")
    reader.read()
    assert log.params == {"n_steps": 9, "device": "cpu"}
    assert [step for step, _ in log.metrics] == [1, 2, None]
    assert log.series("val/loss")[0][1] != log.series("val/loss")[0][1]
    assert log.artifacts == [(tmp_path, "folder")]
    assert shown == [Progress(1, 9, {"train/loss": 2.5})]
    record = logging.LogRecord("gptcore.train", logging.WARNING, "", 1, "step %d skipped", (7,), None)
    WarningHandler(writer).emit(record)
    reader.read()
    assert [entry[2] for entry in caplog.record_tuples if entry[0] == "gptcore.train"] == ["step 7 skipped"]


def test_progress_is_said_a_few_times_a_second_but_its_figures_and_its_end_always(tmp_path: Path) -> None:
    shown = list[Progress]()
    writer, reader = EventWriter(tmp_path / "rank-0.jsonl"), EventReader(tmp_path, MemoryLogger(), shown.append)
    for step in range(1, 1001):
        writer.progress(Progress(step, 1000, {"train/loss": 1.0} if step == 500 else {}))
    reader.read()
    assert {1, 500, 1000} <= {progress.step for progress in shown}
    assert len(shown) < 200


def test_a_line_that_a_kill_tore_is_left_out_and_the_next_process_goes_on_behind_it(tmp_path: Path) -> None:
    log, path = MemoryLogger(), tmp_path / "rank-0.jsonl"
    EventWriter(path).log_metrics({"train/loss": 3.0}, step=1)
    with path.open("a") as file:
        file.write('{"kind": "metrics", "metrics": {"tra')
    reader = EventReader(tmp_path, log, lambda _: None)
    reader.read()
    EventWriter(path).log_metrics({"train/loss": 2.0}, step=2)
    reader.read()
    assert log.series("train/loss") == [(1, 3.0), (2, 2.0)]


def test_only_the_numbers_of_an_earlier_attempt_are_recovered(tmp_path: Path) -> None:
    log, shown = MemoryLogger(), list[Progress]()
    EventReader(tmp_path / "none", log, shown.append).recover()
    writer = EventWriter(tmp_path / "rank-0.jsonl")
    writer.log_metrics({"train/loss": 3.0}, step=1)
    writer.progress(Progress(1, 2, {"train/loss": 3.0}))
    writer.write("error", rank=0, **to_event(DataError("gone")))
    reader = EventReader(tmp_path, log, shown.append)
    reader.recover()
    assert (log.series("train/loss"), shown, reader.errors) == ([(1, 3.0)], [], [])


def test_an_error_raised_on_purpose_travels_as_itself_and_no_other_does() -> None:
    for error in (TokenizerMismatch("two tokenizers"), InterruptedRun("after step 3")):
        again = to_error(to_event(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
    assert to_error(to_event(RuntimeError("Connection closed by peer"))) is None
    assert to_error({"kind": "died", "rank": 1, "exitcode": -9}) is None
