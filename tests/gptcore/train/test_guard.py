"""Skips, rollbacks and the stop after them."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptcore.errors import ConfigError, DivergedError
from gptcore.run import Run
from gptcore.train import MemoryLogger, SpikePolicy
from gptcore.train.logger import read_history

Faulty = Callable[..., tuple[Run, int]]
N_STEPS = 16


def test_after_skips_in_a_row_the_run_goes_back_and_passes_over_that_data(
    prepared: Any, faulty: Faulty, tmp_path: Path
) -> None:
    run, step = faulty(steps=N_STEPS, max_rollbacks=5)
    log = MemoryLogger()
    run.execute(tmp_path / "out", log)
    history = read_history(tmp_path / "out" / "metrics.jsonl")
    returns = [line for line in history if "train/rollbacks" in line]
    n_epochs = math.ceil(N_STEPS / math.ceil(prepared.train.open().n_samples / 4))
    assert returns[0]["step"] == step  # the bad step itself is not counted: the next batch takes its place
    assert 1 <= len(returns) <= n_epochs + 1
    assert history[-1]["step"] == N_STEPS
    assert [value for _, value in log.series("train/rollbacks")] == [float(i + 1) for i in range(len(returns))]
    assert sum(1 for line in history if "train/loss" in line) == N_STEPS


@pytest.mark.parametrize("after", [0, 2])
def test_a_run_that_is_stopped_before_or_after_a_rollback_ends_with_the_same_bits(
    faulty: Faulty, tmp_path: Path, after: int
) -> None:
    run, step = faulty(steps=N_STEPS, max_rollbacks=5)
    run.execute(tmp_path / "whole", MemoryLogger())

    def stop(progress: Any) -> None:
        if progress.step == step + after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.execute(tmp_path / "out", MemoryLogger(), on_progress=stop)
    run.execute(tmp_path / "out", MemoryLogger())
    assert left_by(tmp_path / "out") == left_by(tmp_path / "whole")


def test_a_rollback_returns_to_where_it_would_have_without_a_stop(faulty: Faulty, tmp_path: Path) -> None:
    """The stop leaves a newer checkpoint, just before the fault."""
    _, step = faulty(max_rollbacks=5)
    run, same = faulty(steps=N_STEPS, max_rollbacks=5, checkpoint_every=step - 1, keep_last=1)
    assert same == step
    run.execute(tmp_path / "whole", MemoryLogger())
    steps: list[int] = []

    def stop(progress: Any) -> None:
        steps.append(progress.step)
        if len(steps) == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.execute(tmp_path / "out", MemoryLogger(), on_progress=stop)
    assert (tmp_path / f"out/checkpoints/stop-{step:08d}").is_dir()
    run.execute(tmp_path / "out", MemoryLogger(), on_progress=stop)
    assert steps[step] == step  # the fault itself is not told: the run has gone back and takes this step again
    assert left_by(tmp_path / "out") == left_by(tmp_path / "whole")


def left_by(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("metrics.jsonl", "checkpoint/model.safetensors")]


def test_too_many_rollbacks_stop_the_run_with_a_report(faulty: Faulty, tmp_path: Path) -> None:
    run, step = faulty(steps=N_STEPS, max_rollbacks=1)
    with pytest.raises(DivergedError, match=rf"1 updates in a row were skipped.*Rollbacks before: from {step + 1} to "):
        run.execute(tmp_path / "out", MemoryLogger())


def test_a_spike_is_what_lies_far_above_the_last_losses() -> None:
    policy = SpikePolicy(sigma=6.0, window=4)
    recent = [2.0, 2.2, 2.1, 2.1]
    assert policy.fault(2.4, 1.0, recent=recent) is None
    assert "6 deviations" in str(policy.fault(3.0, 1.0, recent=recent))
    assert policy.fault(3.0, 1.0, recent=recent[:3]) is None  # too few to know
    assert policy.fault(1.4, 1.0, recent=[0.02, 0.3, 0.08, 0.01]) is None  # near zero losses spread over magnitudes
    assert SpikePolicy(sigma=None, window=4).fault(99.0, 1.0, recent=recent) is None
    assert "not finite" in str(policy.fault(2.0, math.inf, recent=recent))
    policy.remember(recent, 5.0)
    assert recent == [2.2, 2.1, 2.1, 5.0]


@pytest.mark.parametrize(("name", "value"), [("sigma", 0.0), ("window", 1), ("patience", 0), ("max_rollbacks", -1)])
def test_a_policy_that_cannot_be_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"expected {name} to be .*, got {value}"):
        SpikePolicy(**{name: value})  # type: ignore[arg-type]


def test_checkpoints_for_good_stay_when_the_run_has_ended(prepared: Any, tmp_path: Path) -> None:
    run = prepared.run(train={"checkpoint_every": 2, "keep_every": 4})
    run.execute(tmp_path / "out", MemoryLogger())
    assert sorted(p.name for p in (tmp_path / "out" / "checkpoints").iterdir()) == ["step-00000004", "step-00000008"]
    state = json.loads((tmp_path / "out/checkpoints/step-00000008/training.json").read_text())
    assert state["position"]["step"] == 8


def test_a_checkpoint_that_cannot_be_written_is_an_error_at_the_next_step(prepared: Any, tmp_path: Path) -> None:
    run = prepared.run(train={"checkpoint_every": 2, "steps": 60})
    seen = []

    def block(progress: Any) -> None:
        seen.append(progress.step)
        if progress.step == 3:  # a file where the folder of checkpoints must be
            while not (tmp_path / "out" / "checkpoints" / "step-00000002").exists():
                time.sleep(0.01)
            shutil.rmtree(tmp_path / "out" / "checkpoints")
            (tmp_path / "out" / "checkpoints").write_text("")
        if progress.step == 4:
            time.sleep(2)  # the thread that writes finds it so

    with pytest.raises(FileExistsError, match="checkpoints"):
        run.execute(tmp_path / "out", MemoryLogger(), on_progress=block)
    assert seen[-1] == 4
