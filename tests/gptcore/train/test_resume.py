"""A run that was stopped or killed and started again ends with the same bits."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gptcore import checkpoint
from gptcore.errors import CheckpointError, ConfigError, InterruptedRun, LockedError
from gptcore.run import Run
from gptcore.train import MemoryLogger, OptimizerConfig, Progress
from gptcore.train.logger import read_history
from gptcore.train.resume import newest_checkpoint, prune

RUNNER = """
import json, os, sys
from pathlib import Path
import torch
import gptcore.data
from gptcore.errors import GptcoreError
from gptcore.run import Run
from gptcore.train import MemoryLogger
torch.set_num_threads(1)
def wait(progress):
    print(progress.step, flush=True)
    sys.stdin.readline()
def work(out):
    run = Run.from_dict(json.loads((out / "wanted.json").read_text()))
    try:
        run.execute(out, MemoryLogger(), on_progress=wait)
    except GptcoreError as error:
        print(error, flush=True)
        return error.exit_code
    return 0
while line := sys.stdin.readline():
    if not line.strip():
        continue
    if (pid := os.fork()) == 0:
        print(os.getpid(), flush=True)
        os._exit(work(Path(line.strip())))
    print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture
def uninterrupted(prepared: Any, tmp_path: Path) -> dict[str, bytes]:
    """What the run leaves when nothing happens."""
    prepared.run().execute(tmp_path / "whole", MemoryLogger())
    return left_by(tmp_path / "whole")


def left_by(out: Path) -> dict[str, bytes]:
    files = ("checkpoint/model.safetensors", "metrics.jsonl", "samples.jsonl")
    return {name: (out / name).read_bytes() for name in files}


def interrupt_at(step: int) -> Callable[[Progress], None]:
    def act(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return act


def stop_after(run: Run, out: Path, step: int) -> None:
    """Run until the given step and leave the state there, as Ctrl-C does."""
    with pytest.raises(InterruptedRun, match=rf"stopped by SIGINT after step {step} of 12; the state is saved in"):
        run.execute(out, MemoryLogger(), on_progress=interrupt_at(step))


class Runner:
    """Runs in processes of their own that wait after each step; torch is imported once for all of them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = 0

    def start(self, run: Run, out: Path) -> None:
        """Begin, or go on with, a run in a new process."""
        out.mkdir(parents=True, exist_ok=True)
        (out / "wanted.json").write_text(json.dumps(run.to_dict()))
        self.say(str(out))
        self.pid = int(self.hear())

    def say(self, text: str = "") -> None:
        """One line; an empty one lets the run take its next step."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """The next line: a step that was done, a message, or how the process ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def advance(self, *, to: int) -> int:
        """Let it take steps until it has done at least ``to`` and waits; the step it is at."""
        while (step := int(self.hear())) < to:
            self.say()
        return step


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """Starts runs in other processes."""
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Runner(process)
        finally:
            process.kill()


@pytest.mark.parametrize("step", [1, 4, 5, 8, 10])
def test_a_resumed_run_ends_with_the_same_bits(
    prepared: Any, tmp_path: Path, uninterrupted: dict[str, bytes], step: int
) -> None:
    stop_after(prepared.run(), tmp_path / "out", step)
    prepared.run().execute(tmp_path / "out", MemoryLogger())
    assert left_by(tmp_path / "out") == uninterrupted
    assert not any(path.name.startswith(("best-", "checkpoints")) for path in (tmp_path / "out").iterdir())


def test_a_run_stopped_after_every_single_step_ends_with_the_same_bits(
    prepared: Any, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    for step in range(10):
        with pytest.raises(InterruptedRun):
            prepared.run().execute(tmp_path / "out", MemoryLogger(), on_progress=interrupt_at(step + 1))
    prepared.run().execute(tmp_path / "out", MemoryLogger())
    assert left_by(tmp_path / "out") == uninterrupted


def test_ctrl_c_saves_the_state_while_the_lock_keeps_others_out(
    prepared: Any, tmp_path: Path, uninterrupted: dict[str, bytes], runner: Runner
) -> None:
    out = tmp_path / "out"
    runner.start(prepared.run(), out)
    assert runner.advance(to=6) == 6
    started = time.monotonic()
    with pytest.raises(LockedError, match=rf"the run in {out} is in use by process {runner.pid} on "):
        prepared.run().execute(out, MemoryLogger())
    assert time.monotonic() - started < 1
    os.kill(runner.pid, signal.SIGINT)
    time.sleep(0.05)
    runner.say()
    told = runner.hear()
    assert told.startswith("stopped by SIGINT after step 6 of 12; the state is saved in ")
    assert told.endswith("run the same command again to go on")
    assert runner.hear() == f"ended {InterruptedRun.exit_code}" == "ended 75"
    prepared.run().execute(out, MemoryLogger())
    assert left_by(out) == uninterrupted


def test_a_run_killed_at_random_ends_with_the_same_bits(
    prepared: Any, tmp_path: Path, uninterrupted: dict[str, bytes], runner: Runner
) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    chance = random.Random(seed)
    points = sorted(chance.sample(range(1, 11), 3))
    print(f"kill points {points} from seed {seed}")
    out = tmp_path / "out"
    for point in points:
        runner.start(prepared.run(train={"checkpoint_every": 2}), out)
        assert point <= runner.advance(to=point) < 12
        runner.say()  # it goes on, and dies in a step, in an evaluation or in a checkpoint
        time.sleep(chance.uniform(0, 0.03))
        os.kill(runner.pid, signal.SIGKILL)
        while not (told := runner.hear()).startswith("ended"):
            assert int(told) < 12
        assert told == f"ended {-signal.SIGKILL}"
    prepared.run(train={"checkpoint_every": 2}).execute(out, MemoryLogger())
    assert left_by(out) == uninterrupted


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "training.json"])
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_used(
    prepared: Any, tmp_path: Path, uninterrupted: dict[str, bytes], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    stop_after(prepared.run(), tmp_path / "out", 9)
    folder = tmp_path / "out" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000008", "step-00000009"]
    content = bytearray((folder / "step-00000009" / name).read_bytes())
    content[len(content) // 2] ^= 0x10
    (folder / "step-00000009" / name).write_bytes(content)
    steps: list[int] = []
    with caplog.at_level(logging.INFO):
        prepared.run().execute(tmp_path / "out", MemoryLogger(), on_progress=lambda p: steps.append(p.step))
    assert steps[0] == 9
    assert f"{name} does not match the sha256" in caplog.text
    assert "it was set aside as step-00000009.damaged and the checkpoint before it is used" in caplog.text
    assert left_by(tmp_path / "out") == uninterrupted


def test_what_a_killed_write_left_is_no_checkpoint_and_is_cleared_away(prepared: Any, tmp_path: Path) -> None:
    stop_after(prepared.run(), tmp_path / "out", 4)
    folder = tmp_path / "out" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000004"]
    for name in ("step-00000008.tmp-4711", "step-00000006.old-12"):
        (folder / name).mkdir()
    assert newest_checkpoint(folder) == folder / "step-00000004"
    prune(tmp_path / "out", keep_last=1, best_step=None)
    assert [path.name for path in folder.iterdir()] == ["step-00000004"]


def test_damaged_best_weights_are_not_handed_on(prepared: Any, tmp_path: Path) -> None:
    run = prepared.run(train={"eval_every": 1, "optimizer": OptimizerConfig(lr=1e-9)})
    stop_after(run, tmp_path / "out", 10)
    (best,) = (tmp_path / "out").glob("best-*")
    content = bytearray((best / "model.safetensors").read_bytes())
    content[-2] ^= 1
    (best / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{best.name}/model\.safetensors does not match the sha256"):
        prepared.run(train={"eval_every": 1, "optimizer": OptimizerConfig(lr=1e-9)}).execute(
            tmp_path / "out", MemoryLogger()
        )


def test_an_error_in_an_evaluation_costs_the_steps_since_the_last_checkpoint_and_no_line(
    prepared: Any, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    out = tmp_path / "out"

    def spoil(progress: Progress) -> None:
        if progress.step == 9:  # the sample at step 10 cannot be written
            (out / "samples.jsonl").rename(out / "aside")
            (out / "samples.jsonl").mkdir()

    with pytest.raises(OSError, match="Is a directory"):
        prepared.run().execute(out, MemoryLogger(), on_progress=spoil)
    (out / "samples.jsonl").rmdir()
    (out / "aside").rename(out / "samples.jsonl")
    assert newest_checkpoint(out / "checkpoints") == out / "checkpoints" / "step-00000008"
    prepared.run().execute(out, MemoryLogger())
    assert left_by(out) == uninterrupted


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"train": {"optimizer": OptimizerConfig(lr=1e-4)}}, "training was [0-9a-f]{12}, is [0-9a-f]{12}"),
        ({"train": {"batch_size": 5}}, "training was "),
        ({"template": "alpaca"}, "model was "),
    ],
)
def test_a_run_goes_on_only_with_its_own_settings(
    prepared: Any, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    out = tmp_path / "out"
    stop_after(prepared.run(), out, 5)
    before = (out / "run.json").read_bytes()
    message = rf"the run in {out} was started with other settings: {named}.*Choose another output folder, or delete"
    with pytest.raises(ConfigError, match=message):
        prepared.run(**changes).execute(out, MemoryLogger())
    assert (out / "run.json").read_bytes() == before


def test_a_run_goes_on_only_with_its_own_data(prepared: Any, tmp_path: Path) -> None:
    stop_after(prepared.run(), tmp_path / "out", 5)
    with pytest.raises(ConfigError, match=r"other settings: data was [0-9a-f]{12}, is [0-9a-f]{12}\. Choose"):
        prepared.run(data=prepared.held_out).execute(tmp_path / "out", MemoryLogger())


def test_what_changes_memory_and_speed_alone_may_be_changed(prepared: Any, tmp_path: Path) -> None:
    stop_after(prepared.run(), tmp_path / "out", 5)
    run = prepared.run(train={"micro_batch_size": 1, "checkpoint_every": 2, "log_every": 1, "keep_last": 1})
    result = run.execute(tmp_path / "out", MemoryLogger())
    assert checkpoint.load(result.path).spec.model == run.model
    assert [line["step"] for line in read_history(tmp_path / "out" / "metrics.jsonl")][-1] == 12


def test_only_the_newest_checkpoints_are_kept(prepared: Any, tmp_path: Path) -> None:
    run = prepared.run(train={"checkpoint_every": 1, "keep_last": 3})
    stop_after(run, tmp_path / "out", 8)
    kept = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    assert kept == ["step-00000006", "step-00000007", "step-00000008"]
