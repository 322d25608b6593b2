"""A run that was stopped or killed and started again ends with the same bits."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore import checkpoint
from gptcore.errors import CheckpointError, ConfigError, InterruptedRun, LockedError
from gptcore.models import GPTConfig
from gptcore.run import Run
from gptcore.train import MemoryLogger, OptimizerConfig, Progress
from gptcore.train.logger import read_history
from gptcore.train.resume import newest_checkpoint
from gptcore.transforms import LoRA


@pytest.fixture(scope="module")
def uninterrupted(prepare: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the run leaves when nothing happens."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    prepare(folder / "data").run().execute(folder / "whole", MemoryLogger())
    return left_by(folder / "whole")


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
    prepared: Any, tmp_path: Path, uninterrupted: dict[str, bytes], runner: Any
) -> None:
    out = tmp_path / "out"
    runner.start(prepared.run(), out)
    assert runner.advance(to=6) == 6
    with pytest.raises(LockedError, match=rf"the run in {out} is in use by process {runner.pid} on "):
        prepared.run().execute(out, MemoryLogger())
    os.kill(runner.pid, signal.SIGINT)
    time.sleep(0.05)
    runner.say()
    told = runner.hear()
    assert told.startswith("stopped by SIGINT after step 6 of 12; the state is saved in ")
    assert told.endswith("run the same command again to resume")
    assert runner.hear() == f"ended {InterruptedRun.exit_code}" == "ended 75"
    prepared.run().execute(out, MemoryLogger())
    assert left_by(out) == uninterrupted


@pytest.mark.parametrize(
    "name", ["model.safetensors", "training.safetensors", "training.json", "tokenizer/vocab.tiktoken", "manifest.json"]
)
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_used(
    prepared: Any, tmp_path: Path, uninterrupted: dict[str, bytes], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    stop_after(prepared.run(), tmp_path / "out", 9)
    folder = tmp_path / "out" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000004", "step-00000008", "stop-00000009"]
    content = bytearray((folder / "stop-00000009" / name).read_bytes())
    content[len(content) // 2] ^= 0x10
    (folder / "stop-00000009" / name).write_bytes(content)
    steps: list[int] = []
    with caplog.at_level(logging.INFO):
        prepared.run().execute(tmp_path / "out", MemoryLogger(), on_progress=lambda p: steps.append(p.step))
    assert steps[0] == 9
    assert re.search(rf"{name} (does not match the sha256|is damaged)|[\w./]+ is missing", caplog.text)
    assert "it was set aside as stop-00000009.damaged and the checkpoint before it is used" in caplog.text
    assert left_by(tmp_path / "out") == uninterrupted


def test_where_every_checkpoint_is_damaged_the_run_starts_afresh(
    prepared: Any, tmp_path: Path, uninterrupted: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    stop_after(prepared.run(), tmp_path / "out", 9)
    for path in (tmp_path / "out" / "checkpoints").iterdir():
        (path / "training.json").unlink()
    steps: list[int] = []
    prepared.run().execute(tmp_path / "out", MemoryLogger(), on_progress=lambda p: steps.append(p.step))
    assert steps[0] == 1
    assert sum("was set aside" in text for text in caplog.messages) == 3
    assert left_by(tmp_path / "out") == uninterrupted


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_resumed_run_holds_no_file_of_the_checkpoint(prepared: Any, tmp_path: Path) -> None:
    """A deleted one would take its room on the disk until the run ends."""
    stop_after(prepared.run(), tmp_path / "out", 4)
    held: list[str] = []

    def look(progress: Progress) -> None:
        maps = Path("/proc/self/maps").read_text().splitlines()
        held.extend(line for line in maps if str(tmp_path / "out") in line)

    prepared.run().execute(tmp_path / "out", MemoryLogger(), on_progress=look)
    assert held == []


def test_what_a_killed_write_left_is_no_checkpoint_and_is_cleared_away(
    prepared: Any, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    stop_after(prepared.run(), out, 4)
    folder = out / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000004"]
    left = {"step-00000008.tmp-4711", "step-00000006.old-4711", "best-00000003.tmp-4711", "metrics.jsonl.tmp-4711"}
    for name in left:
        if name.startswith("metrics"):
            (out / name).write_text("{")
        else:
            ((folder if name.startswith("step") else out) / name).mkdir()
    assert newest_checkpoint(folder) == folder / "step-00000004"
    seen: list[set[str]] = []

    def look(progress: Progress) -> None:
        if progress.step == 5:
            seen.append({path.name for path in [*out.iterdir(), *folder.iterdir()]})

    prepared.run().execute(out, MemoryLogger(), on_progress=look)
    (names,) = seen
    assert not names & left
    assert left_by(out) == uninterrupted


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
        ({"seed": 2}, r"seed was 1, is 2\."),
        ({"train": {"optimizer": OptimizerConfig(lr=1e-4)}}, r"train\.optimizer\.lr was 0\.003, is 0\.0001\."),
        ({"train": {"batch_size": 5, "steps": None}}, r"train\.steps was 12, is none; train\.batch_size was 4, is 5\."),
        ({"template": "alpaca"}, r'template was none, is "alpaca"\.'),
        ({"held_out": None}, r'held_out was \{.*"fingerprint": [0-9a-f]{12}, "samples": 8, .*…, is none\.'),
        ({"model": GPTConfig(300, 32, 16, n_layers=2, n_heads=2, dropout=0.1)}, r"model\.dropout was 0\.2, is 0\.1\."),
        ({"transforms": (LoRA(rank=2),)}, r'transforms was \[\], is \[\{"kind": "LoRA", "rank": 2, .*…\.'),
        (
            {
                "seed": 2,
                "train": dict.fromkeys(("steps", "batch_size", "clip", "eval_every", "eval_samples"), 7)
                | {"optimizer": OptimizerConfig(1.0, 1.0, 0.1, 0.1)},
            },
            r"(\S+ was \S+, is \S+; ){8}and 2 more\.",
        ),
    ],
)
def test_a_run_goes_on_only_with_its_own_settings(
    prepared: Any, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    out = tmp_path / "out"
    stop_after(prepared.run(), out, 5)
    before = (out / "run.json").read_bytes()
    message = rf"the run in {out} was started with other settings: {named} ?Choose another output folder, or delete"
    with pytest.raises(ConfigError, match=message):
        prepared.run(**changes).execute(out, MemoryLogger())
    assert (out / "run.json").read_bytes() == before


def test_a_run_goes_on_only_with_its_own_data(prepared: Any, tmp_path: Path) -> None:
    stop_after(prepared.run(), tmp_path / "out", 5)
    message = (
        r"other settings: data\.fingerprint was [0-9a-f]{12}, is [0-9a-f]{12}; data\.samples was 27, is 8\. Choose"
    )
    with pytest.raises(ConfigError, match=message):
        prepared.run(data=prepared.held_out).execute(tmp_path / "out", MemoryLogger())


def test_a_run_goes_on_only_from_its_own_weights(kinds: dict[str, Run], prepared: Any, tmp_path: Path) -> None:
    run = kinds["lora"]
    with pytest.raises(InterruptedRun):
        run.execute(tmp_path / "out", MemoryLogger(), on_progress=interrupt_at(3))
    assert run.init is not None
    loaded = checkpoint.load(run.init)
    with torch.no_grad():
        next(loaded.model.parameters()).mul_(2)
    checkpoint.save(tmp_path / "other", model=loaded.model, spec=loaded.spec, tokenizer=loaded.tokenizer)
    with pytest.raises(ConfigError, match=r"other settings: init was [0-9a-f]{12}, is [0-9a-f]{12}\. Choose"):
        dataclasses.replace(run, init=tmp_path / "other").execute(tmp_path / "out", MemoryLogger())


# --- finished runs


def test_a_finished_run_is_not_trained_again(prepared: Any, tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    first = prepared.run().execute(tmp_path / "out", MemoryLogger())
    steps: list[int] = []
    log = MemoryLogger()
    again = prepared.run(train={"log_every": 7}).execute(
        tmp_path / "out", log, on_progress=lambda p: steps.append(p.step)
    )
    assert again == first
    assert log.metrics == [(None, first.metrics)]
    assert steps == []
    assert left_by(tmp_path / "out") == uninterrupted
    with pytest.raises(ConfigError, match=r"other settings: train\.steps was 12, is 20\. Choose"):
        prepared.run(train={"steps": 20}).execute(tmp_path / "out", MemoryLogger())


@pytest.mark.parametrize("name", ["checkpoint/model.safetensors", "checkpoint/manifest.json", "result.json"])
def test_a_finished_run_that_is_damaged_is_made_again(
    prepared: Any, tmp_path: Path, uninterrupted: dict[str, bytes], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    prepared.run().execute(tmp_path / "out", MemoryLogger())
    content = (tmp_path / "out" / name).read_bytes()
    (tmp_path / "out" / name).write_bytes(content[:-3])
    prepared.run().execute(tmp_path / "out", MemoryLogger())
    assert "out/checkpoint is not what the run wrote (" in caplog.text
    assert left_by(tmp_path / "out") == uninterrupted


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


def test_a_stop_costs_no_regular_checkpoint_and_leaves_nothing(prepared: Any, tmp_path: Path) -> None:
    run, folder = prepared.run(train={"keep_last": 1}), tmp_path / "out" / "checkpoints"
    names = []
    for step in (6, 7, 9):
        stop_after(run, tmp_path / "out", step)
        names.append(sorted(path.name for path in folder.iterdir()))
    assert names == [
        ["step-00000004", "stop-00000006"],
        ["step-00000004", "stop-00000007"],
        ["step-00000008", "stop-00000009"],
    ]


def test_a_history_that_has_lost_lines_is_told_and_goes_on(
    prepared: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop_after(prepared.run(), tmp_path / "out", 7)
    history = tmp_path / "out" / "metrics.jsonl"
    first, second = history.read_text().splitlines(keepends=True)[:2]
    history.write_text(first + second[:9])
    prepared.run().execute(tmp_path / "out", MemoryLogger())
    assert re.search(r"metrics\.jsonl has \d+ bytes, but had \d+ at this step: lines are lost", caplog.text)
    assert [line["step"] for line in read_history(history)] == [3, 9, 10, 12, 12]
