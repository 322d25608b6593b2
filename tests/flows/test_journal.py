"""The journal by itself: what a crash, a full disk and a second process make of it; which points are new."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.tracking.journal import (
    Journal,
    close_abandoned,
    find_journal,
    find_unfinished,
    is_local,
    new_run_id,
    open_journal,
)
from flows.tracking.points import Fold, Point
from gptcore.errors import LockedError

ROOT = Path(__file__).parents[2]


def begun(spool: Path, key: str = "k") -> Journal:
    journal = open_journal(spool, stage="pretrain", key=key, run_id=new_run_id())
    journal.append("run", stage="pretrain", key=key, time=1)
    return journal


def kinds(journal: Journal) -> list[str]:
    return [entry["kind"] for _, entry in journal.read(0)]


def metrics(step: int | None, time: int = 1, **values: float) -> dict[str, Any]:
    return {"kind": "metrics", "metrics": values, "step": step, "time": time}


def test_a_journal_is_found_by_either_id(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    assert is_local(journal.id)
    assert not is_local("0" * 32)
    journal.keep_state(journal.state().__class__(run_id="0" * 32))
    for known in (journal.id, "0" * 32):
        found = find_journal(tmp_path, known)
        assert found is not None
        assert found.folder == journal.folder
    assert find_journal(tmp_path, new_run_id()) is None


def test_a_line_cut_short_by_a_crash_is_ended_and_left_out(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.close()
    with journal.path.open("a") as file:
        file.write('{"kind": "metrics", "me')
    assert kinds(journal) == ["run"], "who reads while it is written waits for the rest"
    with journal.writing():
        journal.append("begin")
    assert kinds(journal) == ["run", "torn", "begin"]


def test_a_disk_that_refuses_costs_one_warning_and_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full to write to")
    journal = Journal(tmp_path / f"pretrain-k-{new_run_id()}")
    journal.folder.mkdir()
    journal.path.symlink_to("/dev/full")
    for step in range(3):
        journal.append("metrics", metrics={"a": 1.0}, step=step, time=1)
    assert [entry["step"] for entry in journal.in_memory] == [0, 1, 2]
    assert [record.message.partition(" (")[0] for record in caplog.records] == [f"{journal.path} cannot be written"]


def test_a_logged_file_stays_as_it_was_when_another_takes_its_place(tmp_path: Path) -> None:
    journal, weights = begun(tmp_path / "spool"), tmp_path / "model.safetensors"
    weights.write_bytes(b"first")
    journal.stage_file(weights, "run/model.safetensors")
    beside = tmp_path / "new"
    beside.write_bytes(b"second")
    beside.replace(weights)
    (entry,) = (entry for _, entry in journal.read(0) if entry["kind"] == "file")
    assert (journal.folder / entry["path"]).read_bytes() == b"first"
    assert entry["name"] == "run/model.safetensors"


OWNER = """
import sys, time
from pathlib import Path
from flows.tracking.journal import Journal
journal = Journal(Path(sys.argv[1]))
with journal.writing():
    print("mine", flush=True)
    time.sleep(60)
"""


def test_a_run_is_abandoned_when_its_process_is_gone_and_only_then(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.close()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(journal.folder)], stdout=subprocess.PIPE, cwd=ROOT
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"mine\n"
        assert journal.owned
        assert close_abandoned(journal, whole=False) is False
        assert find_unfinished(tmp_path, stage="pretrain", key="k") is None
        with pytest.raises(LockedError, match="in use by process"), journal.writing():
            pass
        owner.kill()
    assert not journal.owned
    found = find_unfinished(tmp_path, stage="pretrain", key="k")
    assert found is not None
    assert found.id == journal.id
    assert close_abandoned(journal, whole=False) is True
    assert close_abandoned(journal, whole=False) is False, "it is said once"
    assert [entry["status"] for _, entry in journal.read(0) if entry["kind"] == "end"] == ["KILLED"]


def test_a_run_that_ended_well_is_not_taken_up_again(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.append("end", status="FINISHED", reason="", time=2)
    assert find_unfinished(tmp_path, stage="pretrain", key="k") is None
    journal.append("begin", tags={})
    assert find_unfinished(tmp_path, stage="pretrain", key="k") is not None


def test_a_state_that_cannot_be_read_counts_as_nothing_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = begun(tmp_path)
    (journal.folder / "state.json").write_text('{"facts": 7, "unknown": 1}')
    assert journal.state().facts == 0
    assert "everything is sent again" in caplog.text


def test_a_summary_becomes_the_latest_value_and_is_not_repeated() -> None:
    fold = Fold({"val/loss": Point("val/loss", 2.0, 80, 1000)})
    summary = {"kind": "metrics", "metrics": {"val/loss": 1.5, "perf/seconds": 9.0}, "step": None, "time": 2000}
    assert [(point.name, point.value, point.step) for point in fold.points(summary)] == [
        ("val/loss", 1.5, 80),
        ("perf/seconds", 9.0, 0),
    ]
    assert fold.points(summary) == []
    nothing = metrics(None, energy=float("nan"))
    assert len(fold.points(nothing)) == 1
    assert fold.points(nothing) == [], "not a number is not news either"


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.integers(min_value=1, max_value=30), max_size=12), st.integers(min_value=1, max_value=30))
def test_resuming_at_any_checkpoints_leaves_each_step_once_and_no_gap(stops: list[int], last: int) -> None:
    fold, points, checkpoint = Fold(), list[Point](), 0
    for attempt, stop in enumerate([*stops, last]):
        for step in range(checkpoint, max(stop, checkpoint)):
            points += fold.points(metrics(step, time=attempt, loss=float(step)))
        checkpoint = max(checkpoint, stop - stop % 5)
    steps = [point.step for point in points]
    assert steps == list(range(max([*stops, last])))


def test_the_same_journal_gives_the_same_points_every_time(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    for step in (0, 1, 2, 1, 2, 3, None):
        journal.append(**metrics(step, loss=0.1 * (step or 7)))
    journal.close()

    def points() -> list[Point]:
        fold = Fold()
        return [each for _, entry in journal.read(0) if entry["kind"] == "metrics" for each in fold.points(entry)]

    assert points() == points()
    assert [json.loads(line)["kind"] for line in journal.path.read_text().splitlines()].count("metrics") == 7


def test_an_artifact_that_cannot_be_kept_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = begun(tmp_path)
    journal.stage_file(tmp_path / "absent.bin", "absent.bin")
    assert kinds(journal) == ["run"]
    assert "absent.bin is not kept with run" in caplog.text
    assert list(journal.files.iterdir()) == []
