"""What a run has on the disk while it goes on, and what happens when the disk takes no more."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore.errors import OutOfDiskError
from gptcore.run import Run
from gptcore.train import MemoryLogger
from gptcore.train.resume import newest_checkpoint
from gptcore.train.saver import Saver, copy_to_host


def test_the_history_is_on_the_disk_before_a_position_that_counts_on_it(
    prepared: Any, tmp_path: Path, flushed: dict[int, os.stat_result], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename, seen = tmp_path / "out", os.rename, []

    def renamed(source: Path, target: Path) -> None:
        if re.fullmatch(r"step-\d+", Path(target).name) and (Path(source) / "training.json").exists():
            position = json.loads((Path(source) / "training.json").read_text())["position"]
            for name, size in position["written"].items():
                assert flushed[(out / name).stat().st_ino].st_size >= size > 0
            seen.append(position["step"])
        rename(source, target)

    monkeypatch.setattr(os, "rename", renamed)
    prepared.run(train={"log_every": 1, "eval_every": 1}).execute(out, MemoryLogger())
    assert seen == [4, 8]


def test_a_run_leaves_safetensors_and_json_and_nothing_else(kinds: dict[str, Run], tmp_path: Path) -> None:
    run, found = kinds["instruction"], set()

    def look(_: Any) -> None:
        # os.walk: another thread writes and renames meanwhile, and what it writes has its end still to come
        for _, _, names in os.walk(tmp_path / "out"):
            found.update(Path(re.sub(r"\.tmp-\d+$", "", name)).suffix for name in names)

    run.execute(tmp_path / "out", MemoryLogger(), on_progress=look)
    look(None)
    assert found == {".safetensors", ".json", ".jsonl", ".tiktoken", ".lock"}


def written_at(folder: Path, *, step: int) -> Path:
    """The newest checkpoint once it is that step's: another thread writes it while the steps go on."""
    wanted, end = folder / f"step-{step:08}", time.monotonic() + 60
    while newest_checkpoint(folder) != wanted:
        assert time.monotonic() < end, f"{wanted} was not written"
        time.sleep(0.01)
    return wanted


def test_a_full_disk_is_an_error_at_the_next_step_and_costs_nothing_that_was_saved(
    prepared: Any, tmp_path: Path, runner: Any
) -> None:
    run, out = prepared.run(train={"keep": "last"}), tmp_path / "out"
    run.execute(tmp_path / "whole", MemoryLogger())
    runner.start(run, out)
    assert runner.advance(to=6) == 6
    kept = written_at(out / "checkpoints", step=4)
    runner.end()
    room = (kept / "model.safetensors").stat().st_size + 100  # the weights fit, the moments do not
    runner.start(run, out, wait=False, room=room)
    told = runner.hear()
    assert re.match(rf"{out}/checkpoints/step-00000008(\.tmp-\d+/\S+)? could not be written: No space left", told), told
    assert "nothing half-written was kept. Free some space" in told
    assert runner.hear() == f"ended {OutOfDiskError.exit_code}"
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000004"]
    run.execute(out, MemoryLogger())
    for name in ("metrics.jsonl", "samples.jsonl", "checkpoint/model.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# --- the thread that writes


@pytest.fixture
def saver() -> Any:
    """Ends when the test does."""
    found = Saver()
    yield found
    found.close()


def test_a_write_that_failed_is_told_whenever_it_is_asked_for_and_stops_those_behind_it(saver: Saver) -> None:
    gate, written = threading.Event(), []

    def fail() -> None:
        gate.wait()
        raise OSError("no")

    saver.submit(fail)
    saver.submit(lambda: written.append("behind"))
    saver.check()  # nothing has ended yet
    gate.set()
    for ask in (saver.wait, saver.check, lambda: saver.submit(lambda: written.append("later"))):
        with pytest.raises(OSError, match="no"):
            ask()
    saver.close()
    assert written == []


def test_writes_come_one_after_another_in_their_order(saver: Saver) -> None:
    gate, written = threading.Event(), []
    saver.submit(lambda: (gate.wait(), written.append(1)))  # type: ignore[func-returns-value,arg-type,return-value]
    saver.submit(lambda: written.append(2))
    assert written == []
    gate.set()
    saver.wait()
    assert written == [1, 2]


def test_what_is_written_is_a_copy(prepared: Any, tmp_path: Path) -> None:
    tensor = torch.arange(6.0).view(2, 3).t()
    found = copy_to_host({"a": tensor})["a"]
    tensor.zero_()
    assert found.is_contiguous()
    assert found.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_an_evaluation_and_a_checkpoint_after_one_step_do_not_wait_for_each_other(
    prepared: Any, tmp_path: Path
) -> None:
    """Both are copied at once and written one after the other; a later step waits until they are."""
    run = prepared.run(train={"eval_every": 2, "checkpoint_every": 2, "keep": "best"})
    trainer = run.trainer(tmp_path, MemoryLogger())
    trainer.resume()
    state, gate = trainer.state, threading.Event()
    state.saver.submit(gate.wait)  # type: ignore[arg-type]
    waits: Callable[[], None] = state.save_best
    thread = threading.Thread(target=waits)
    trainer.position.step = trainer.position.best_step = 2
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()  # another step's write is under way
    gate.set()
    thread.join()
    gate.clear()
    state.saver.submit(gate.wait)  # type: ignore[arg-type]
    state.save_best()
    state.save_position()  # the same step: returns at once
    gate.set()
    state.saver.wait()
    assert (tmp_path / "best-00000002").is_dir()
    assert newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-00000002"
    trainer.feed.close()
    trainer.state.close()
