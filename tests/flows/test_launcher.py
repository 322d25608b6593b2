"""One run in processes of its own: it ends where one process ends, whatever happens to them or to their caller."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.launch.launch import Launch, LaunchError
from flows.launch.launcher import train
from flows.launch.machines import leading
from flows.tracking.points import Fold, Point
from gptcore.data.corpus import write_shards
from gptcore.data.windows import TokenWindows
from gptcore.errors import ConfigError, InterruptedRun
from gptcore.files import write_json
from gptcore.models.gpt import GPTConfig
from gptcore.objectives import NextToken
from gptcore.run import Run
from gptcore.tokenizer import train_bpe
from gptcore.train import MemoryLogger, OptimizerConfig, Progress, TrainConfig, TrainResult

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).resolve().parents[2]
TEXT = "".join(f"On day {i} the keeper counted {i * 7 % 11} ships and {i * 5 % 13} gulls.\n" for i in range(200))
STEPS = 300


@pytest.fixture(autouse=True)
def own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes import what this one does."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of seconds."""
    folder = tmp_path_factory.mktemp("data")
    tokenizer = train_bpe([TEXT], vocab_size=300)
    tokenizer.save(folder / "tokenizer")
    for name, text in (("train", TEXT), ("val", TEXT[-900:])):
        write_shards([text], tokenizer=tokenizer, folder=folder / name)
    return Run(
        data=TokenWindows(folder / "train", 16),
        held_out=TokenWindows(folder / "val", 16),
        objective=NextToken(),
        tokenizer=folder / "tokenizer",
        model=GPTConfig(vocab_size=300, context_length=16, width=16, n_layers=2, n_heads=2),
        train=TrainConfig(
            steps=STEPS,
            batch_size=4,
            optimizer=OptimizerConfig(lr=1e-3),
            eval_every=80,
            log_every=4,
            checkpoint_every=40,
        ),
    )


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, MemoryLogger]:
    """The same run in this process, and what it logged."""
    log = MemoryLogger()
    return train(run, tmp_path_factory.mktemp("whole") / "run", log, launch=Launch(), on_progress=ignore), log


class Tracked(MemoryLogger):
    """A logger that drops what the tracker drops: ``points`` is what a server would have."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[Point] = []
        self.fold = Fold()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.points += self.fold.points({"metrics": metrics, "step": step, "time": 0})

    def steps(self, name: str) -> list[int]:
        return [point.step for point in self.points if point.name == name]


def ignore(progress: Progress) -> None:
    del progress


def workers(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one of an earlier training that is about to end
            if "flows.launch.worker" in child.cmdline():
                found.append(child)
    return found


def once_at(step: int, deed: Callable[[], Any]) -> Callable[[Progress], None]:
    """A progress bar that does something when the training has come so far."""
    done: list[bool] = []

    def on_progress(progress: Progress) -> None:
        if progress.step >= step and not done:
            done.append(True)
            deed()

    return on_progress


def kill_the_second() -> None:
    max(workers(psutil.Process()), key=lambda worker: worker.environ()["RANK"]).kill()


def assert_same_figures(result: TrainResult, whole: tuple[TrainResult, MemoryLogger]) -> None:
    expected = {name: value for name, value in whole[0].metrics.items() if not name.startswith("perf/")}
    assert expected
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_two_processes_end_where_one_ends_and_say_the_same(
    run: Run, whole: tuple[TrainResult, MemoryLogger], tmp_path: Path
) -> None:
    out, log, shown = tmp_path / "run", Tracked(), list[Progress]()
    result = train(run, out, log, launch=Launch(nproc=2), on_progress=shown.append)
    assert_same_figures(result, whole)
    assert result.path == out / "checkpoint"
    assert (log.params["n_processes"], whole[1].params["n_processes"]) == (2, 1)
    assert log.steps("train/loss") == [step for step, _ in whole[1].series("train/loss")]
    assert [progress.step for progress in shown] == sorted(progress.step for progress in shown)
    assert shown[-1][:2] == (STEPS, STEPS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]  # nothing is left beside it


@pytest.mark.slow
def test_a_killed_process_is_told_and_with_a_restart_the_run_ends_with_each_point_once(
    run: Run, whole: tuple[TrainResult, MemoryLogger], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, log = tmp_path / "run", Tracked()
    with pytest.raises(LaunchError, match="training process 1 was killed by SIGKILL") as told:
        train(run, out, log, launch=Launch(nproc=2), on_progress=once_at(60, kill_the_second))
    assert str(out.with_name("run.launch") / "output") in str(told.value)
    at = max(log.steps("train/loss")) + 60
    result = train(run, out, log, launch=Launch(nproc=2, max_restarts=1), on_progress=once_at(at, kill_the_second))
    assert "a process died; all were started again (restart 1)" in caplog.text
    assert_same_figures(result, whole)
    assert log.steps("train/loss") == [step for step, _ in whole[1].series("train/loss")]
    assert log.steps("val/loss") == [step for step, _ in whole[1].series("val/loss")]


def test_ctrl_c_saves_in_all_processes_and_one_alone_goes_on(
    run: Run, whole: tuple[TrainResult, MemoryLogger], tmp_path: Path
) -> None:
    def press() -> None:
        raise KeyboardInterrupt

    out, log = tmp_path / "run", Tracked()
    with pytest.raises(InterruptedRun, match=rf"stopped by SIGINT after step \d+ of {STEPS}; the state is saved in"):
        train(run, out, log, launch=Launch(nproc=2), on_progress=once_at(60, press))
    assert workers(psutil.Process()) == []
    assert_same_figures(train(run, out, log, launch=Launch(), on_progress=ignore), whole)
    assert log.steps("train/loss") == [step for step, _ in whole[1].series("train/loss")]
    assert not out.with_name("run.launch").exists()


def test_an_error_of_the_training_comes_back_as_itself_without_any_restart(run: Run, tmp_path: Path) -> None:
    half = dataclasses.replace(run, train=dataclasses.replace(run.train, precision="fp16"))
    launch = Launch(nproc=2, parallel="fsdp", max_restarts=3)
    with pytest.raises(ConfigError) as told:
        train(half, tmp_path / "run", MemoryLogger(), launch=launch, on_progress=ignore)
    assert str(told.value) == "expected precision to be 'bf16' or 'fp32' with fsdp, got 'fp16'"
    attempts = {path.name for path in tmp_path.glob("run.launch/output/*/attempt_*")}
    assert attempts == {"attempt_0"}


WAITS = """
import sys
from pathlib import Path
from flows.launch.launch import Launch
from flows.launch.launcher import train
from gptcore import data, objectives
from gptcore.run import Run
from gptcore.train import MemoryLogger
import json
run = Run.from_dict(json.loads(Path(sys.argv[1]).read_text()))
train(run, Path(sys.argv[2]), MemoryLogger(), launch=Launch(nproc=2), on_progress=lambda p: print(p.step, flush=True))
"""


@pytest.mark.slow
def test_processes_whose_caller_was_killed_save_and_end_and_what_they_said_is_not_lost(
    run: Run, whole: tuple[TrainResult, MemoryLogger], tmp_path: Path
) -> None:
    out, log = tmp_path / "run", Tracked()
    write_json(tmp_path / "run.json", run.to_dict())
    command = [sys.executable, "-c", WAITS, str(tmp_path / "run.json"), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        while int(caller.stdout.readline()) < 60:
            pass
        left = workers(psutil.Process(caller.pid))
        caller.kill()
    assert len(left) == 2
    gone, alive = psutil.wait_procs(left, timeout=60)
    assert (len(gone), alive) == (2, [])
    assert list((out / "checkpoints").iterdir())
    assert_same_figures(train(run, out, log, launch=Launch(), on_progress=ignore), whole)
    assert log.steps("train/loss") == [step for step, _ in whole[1].series("train/loss")]


@pytest.mark.slow
def test_a_second_machine_gives_its_process_may_die_and_come_again_and_ends_with_the_command(
    run: Run, whole: tuple[TrainResult, MemoryLogger], tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        rdzv = f"localhost:{probe.getsockname()[1]}"
    launch, log, others = Launch(nnodes=2, rdzv=rdzv, max_restarts=1), Tracked(), list[subprocess.Popen[str]]()

    def join() -> None:
        command = [sys.executable, "-m", "flows", "join", rdzv]
        others.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))

    def die_and_join_again() -> None:
        machine = psutil.Process(others[0].pid)
        for process in (machine, *machine.children(recursive=True)):
            process.kill()
        join()

    join()
    try:
        with leading(launch):
            watch = once_at(60, die_and_join_again)
            result = train(run, tmp_path / "run", log, launch=launch, on_progress=watch)
        out, err = others[1].communicate(timeout=60)
    finally:
        for other in others:
            other.kill()
            other.communicate()
    assert others[1].returncode == 0, err
    assert f"the command at {rdzv} has ended well" in out
    assert log.params["n_processes"] == 2
    assert_same_figures(result, whole)
    assert log.steps("train/loss") == [step for step, _ in whole[1].series("train/loss")]
