"""Skips, rollbacks and the stop after them."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.errors import ConfigError, DivergedError
from gptcore.models import GPTConfig
from gptcore.tokenizer import Tokenizer
from gptcore.train import MemoryLogger, SpikePolicy
from gptcore.train.feed import Feed
from gptcore.train.logger import read_history

N_STEPS = 16


def poisoned(prepared: Any, path: Path) -> Path:
    """A checkpoint whose embedding of one token is not a number; that token stands in one window alone."""
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=300, context_length=32, width=16, n_layers=2, n_heads=2, tied_head=False)
    model, tokenizer = config.build(), Tokenizer.load(prepared.tokenizer)
    with torch.no_grad():
        model.token_embedding.weight[rare(prepared)] = math.nan
    spec = ModelSpec(config, tokenizer_digest=tokenizer.digest)
    checkpoint.save(path, model=model, spec=spec, tokenizer=tokenizer)
    return path


def rare(prepared: Any) -> int:
    source = prepared.train.open()
    rows = [source.batch([i]).inputs["tokens"][0] for i in range(source.n_samples)]
    return next(t for t in range(300) if sum(int((row == t).any()) for row in rows) == 1)


def seed_with_a_late_fault(prepared: Any) -> tuple[int, int]:
    """A seed whose first epoch meets that window late, and the step."""
    source = prepared.train.open()
    bad = next(i for i in range(source.n_samples) if bool((source.batch([i]).inputs["tokens"] == rare(prepared)).any()))
    for seed in range(1, 50):
        feed = Feed(source, prepared.run().objective, batch_size=4, seed=seed)
        step = next(s for s in range(feed.steps_per_epoch) if bad in feed.indices(s))
        feed.close()
        if step >= 3:
            return seed, step
    raise AssertionError("no seed")


def run_with_faults(prepared: Any, tmp_path: Path, *, max_rollbacks: int, patience: int = 1) -> tuple[Any, int]:
    seed, step = seed_with_a_late_fault(prepared)
    train = {
        "steps": N_STEPS,
        "log_every": 1,
        "checkpoint_every": 1,
        "keep": "last",
        "spikes": SpikePolicy(patience=patience, max_rollbacks=max_rollbacks),
    }
    return prepared.run(init=poisoned(prepared, tmp_path / "poisoned"), held_out=None, seed=seed, train=train), step


def test_after_skips_in_a_row_the_run_goes_back_and_passes_over_that_data(prepared: Any, tmp_path: Path) -> None:
    run, step = run_with_faults(prepared, tmp_path, max_rollbacks=5)
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


def test_a_run_that_is_stopped_after_a_rollback_ends_with_the_same_bits(prepared: Any, tmp_path: Path) -> None:
    run, step = run_with_faults(prepared, tmp_path, max_rollbacks=5)
    run.execute(tmp_path / "whole", MemoryLogger())

    def stop(progress: Any) -> None:
        if progress.step == step + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.execute(tmp_path / "out", MemoryLogger(), on_progress=stop)
    run.execute(tmp_path / "out", MemoryLogger())
    for name in ("metrics.jsonl", "checkpoint/model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_too_many_rollbacks_stop_the_run_with_a_report(prepared: Any, tmp_path: Path) -> None:
    run, step = run_with_faults(prepared, tmp_path, max_rollbacks=1)
    with pytest.raises(DivergedError, match=rf"1 updates in a row were skipped.*Rollbacks before: from {step + 1} to "):
        run.execute(tmp_path / "out", MemoryLogger())


def test_a_spike_is_what_lies_far_above_the_last_losses() -> None:
    policy = SpikePolicy(sigma=6.0, window=4)
    recent = [2.0, 2.2, 2.1, 2.1]
    assert policy.fault(2.4, 1.0, recent=recent) is None
    assert "6 deviations" in str(policy.fault(3.0, 1.0, recent=recent))
    assert policy.fault(3.0, 1.0, recent=recent[:3]) is None  # too few to know
    assert SpikePolicy(sigma=None, window=4).fault(99.0, 1.0, recent=recent) is None
    assert "not finite" in str(policy.fault(2.0, math.inf, recent=recent))
    policy.remember(recent, 5.0)
    assert recent == [2.2, 2.1, 2.1, 5.0]


@pytest.mark.parametrize(("name", "value"), [("sigma", 0.0), ("window", 1), ("patience", 0), ("max_rollbacks", -1)])
def test_a_policy_that_cannot_be_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
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
            time.sleep(0.5)
            shutil.rmtree(tmp_path / "out" / "checkpoints")
            (tmp_path / "out" / "checkpoints").write_text("")
        if progress.step == 4:
            time.sleep(0.5)

    with pytest.raises(FileExistsError, match="checkpoints"):
        run.execute(tmp_path / "out", MemoryLogger(), on_progress=block)
    assert seen[-1] == 4
