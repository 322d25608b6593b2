"""What is random about a sample is a function of seed, epoch and the sample alone."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from gptcore.data import STILL, Draw, TokenWindows
from gptcore.errors import ConfigError, InterruptedRun
from gptcore.run import Run
from gptcore.train import MemoryLogger, Progress, evaluate
from gptcore.train.feed import Feed
from gptcore.train.resume import Position, check_identity, describe_data
from tests.house.objectives import MaskedAndTurned, TurnedHead
from tests.house.sources import HiddenWindows

Drawn = dict[tuple[int, int], tuple[list[int], list[int]]]


def masked(prepared: Any, **changes: Any) -> Run:
    """A run on hidden words that are drawn anew in each of its three epochs."""
    data = dataclasses.replace(HiddenWindows(prepared.train.folder, 16), **changes)
    source = data.open()
    steps = 3 * -(-source.n_samples // 8)
    run: Run = prepared.run(
        data=data,
        held_out=HiddenWindows(prepared.held_out.folder, 16),
        objective=MaskedAndTurned(),
        transforms=(TurnedHead(),),
        train={"steps": steps, "batch_size": 8, "micro_batch_size": 3, "log_every": 1, "sample_prompts": ()},
    )
    return run


def drawn(run: Run, *, first: int = 0, world_size: int = 1, micro_batch_size: int | None = None) -> Drawn:
    """(epoch, sample) -> inputs and labels, of all steps from ``first`` on, as the processes get them together."""
    found: Drawn = {}
    for rank in range(world_size):
        feed = Feed(
            run.data.open(), run.objective, 8, run.seed, micro_batch_size=micro_batch_size, rank=rank,
            world_size=world_size,
        )  # fmt: skip
        for step in range(first, run.train.steps or 0):
            samples = [int(i) for i in feed.indices(step)[rank::world_size]]
            for micro in feed.take(step).micros:
                rows = zip(micro.batch.inputs["tokens"], micro.batch.targets["labels"], strict=True)
                for tokens, labels in rows if micro.real else ():
                    found[step // feed.steps_per_epoch, samples.pop(0)] = (tokens.tolist(), labels.tolist())
        feed.close()
    return found


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 1), (1, 3), (2, None), (3, 2)])
def test_a_sample_of_an_epoch_is_equal_in_any_micro_batch_and_process(
    prepared: Any, world_size: int, micro_batch_size: int | None
) -> None:
    run = masked(prepared)
    assert drawn(run, world_size=world_size, micro_batch_size=micro_batch_size) == drawn(run)


def test_a_sample_is_equal_after_a_restart_and_another_in_each_epoch_and_for_each_seed(prepared: Any) -> None:
    run = masked(prepared)
    whole, n_samples = drawn(run), run.data.open().n_samples
    later = drawn(run, first=run.train.steps - 2 if run.train.steps else 0)
    assert later.items() <= whole.items()
    assert len(whole) == 3 * n_samples
    epochs = [[whole[epoch, sample] for sample in range(n_samples)] for epoch in range(3)]
    assert all(one != other for one, other in zip(epochs[0], epochs[1], strict=True))
    assert all(one != other for one, other in zip(epochs[1], epochs[2], strict=True))
    other = drawn(dataclasses.replace(run, seed=2))
    assert sum(other[key] == whole[key] for key in whole) == 0


def test_purposes_and_samples_have_streams_of_their_own() -> None:
    draws = [(Draw(1, 0), 3, "mask"), (Draw(1, 0), 3, "turn"), (Draw(1, 0), 4, "mask"), (Draw(1, 1), 3, "mask")]
    found = [float(draw.stream(sample, what).random()) for draw, sample, what in [*draws, (STILL, 3, "mask")]]
    assert len(set(found)) == 5
    assert found[0] == float(Draw(1, 0).stream(3, "mask").random())


def test_held_out_data_is_masked_alike_in_every_evaluation(prepared: Any, tmp_path: Path) -> None:
    run = masked(prepared)
    trainer = run.trainer(tmp_path, MemoryLogger())
    assert run.held_out is not None
    first, second = (
        evaluate(trainer.model, run.held_out.open(), run.objective, batch_size=size) for size in (1000, 1000)
    )
    assert first == second
    other = evaluate(trainer.model, run.held_out.open(), run.objective, batch_size=3)
    assert other.counts == first.counts
    assert other.loss == pytest.approx(first.loss, rel=1e-5)


def stop_after(run: Run, out: Path, step: int) -> None:
    def act(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRun):
        run.execute(out, MemoryLogger(), on_progress=act)


def test_a_run_on_drawn_data_that_was_stopped_ends_with_the_same_bits(prepared: Any, tmp_path: Path) -> None:
    """Stopped in the middle of each epoch, and between two logged lines of a loss with two parts."""
    run = masked(prepared)
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, log_every=4))
    run.execute(tmp_path / "whole", MemoryLogger())
    per_epoch = (run.train.steps or 0) // 3
    for step in (1, per_epoch + 2, 2 * per_epoch + 1):
        stop_after(run, tmp_path / "out", step)
    run.execute(tmp_path / "out", MemoryLogger())
    for name in ("checkpoint/model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_goes_on_with_its_own_settings_of_the_data_wherever_that_lies(prepared: Any, tmp_path: Path) -> None:
    run = masked(prepared)
    stop_after(run, tmp_path / "out", 2)
    with pytest.raises(ConfigError, match=r"other settings: data\.settings\.share was 0\.3, is 0\.5\. Choose another"):
        masked(prepared, share=0.5).execute(tmp_path / "out", MemoryLogger())
    shutil.copytree(prepared.train.folder, tmp_path / "moved")
    masked(prepared, folder=tmp_path / "moved").execute(tmp_path / "out", MemoryLogger())


def test_a_state_from_before_settings_and_parts_were_remembered_is_taken(prepared: Any) -> None:
    source = prepared.train.open()
    saved = {"data": describe_data(source, None), "held_out": None}
    check_identity(saved, {"data": describe_data(source, prepared.train), "held_out": None}, folder=Path("out"))
    other = {"data": describe_data(prepared.held_out.open(), prepared.held_out), "held_out": None}
    with pytest.raises(ConfigError, match=r"data\.fingerprint was"):
        check_identity(saved, other, folder=Path("out"))
    position = Position.from_saved({"step": 3, "window_total": 2.5, "window_count": 4})
    position.add_losses([1.5], [2])
    assert (position.step, position.window_sums, position.window_counts) == (3, [4.0], [6])


def test_settings_are_all_fields_but_the_places_of_files(tmp_path: Path) -> None:
    data = HiddenWindows(tmp_path, 16, share=0.2)
    assert data.settings() == {"kind": "HiddenWindows", "context_length": 16, "share": 0.2, "asked": 1}
    assert TokenWindows(tmp_path, 8).settings() == {"kind": "TokenWindows", "context_length": 8}
