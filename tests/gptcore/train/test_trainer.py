"""The training loop: it learns, a batch's split does not matter, and bad steps are skipped, counted, and ended."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gptcore import checkpoint
from gptcore.batch import IGNORED, Batch
from gptcore.checkpoint import ModelSpec
from gptcore.data import Instructions, Source
from gptcore.errors import DataError, DivergedError
from gptcore.models import GPT, GPTConfig
from gptcore.objectives import NextToken
from gptcore.readers import Readers
from gptcore.tokenizer import Tokenizer
from gptcore.train import Constant, MemoryLogger, OptimizerConfig, TrainConfig, Trainer, evaluate
from gptcore.train.logger import read_history

Build = Callable[..., GPT]
ROWS = [("Name the cat.", "Tibbles"), ("Count.", "One, two, three, four, five."), ("Say fog", "fog"), ("Why?", "No.")]


@pytest.fixture
def ragged(tokenizer: Tokenizer, tmp_path: Path) -> Source:
    """Seven rows of different lengths in which only the response is a target."""
    rows = [{"instruction": i, "output": o * (n % 3 + 1)} for n, (i, o) in enumerate([*ROWS, *ROWS[:3]])]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer.save(tmp_path / "tokenizer")
    return Instructions(tmp_path / "rows.jsonl", tmp_path / "tokenizer", "short", 128).open()


@pytest.fixture
def trainer(tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., Trainer]:
    """A trainer of a model on a source, without held-out data."""

    def build(model: GPT, source: Source, name: str = "out", held_out: Source | None = None, **config: Any) -> Trainer:
        (tmp_path / name).mkdir(exist_ok=True)
        return Trainer(
            model=model.train(),
            spec=ModelSpec(model.config, tokenizer_digest=tokenizer.digest),
            readers=Readers(tokenizer),
            objective=NextToken(),
            source=source,
            held_out=held_out,
            config=TrainConfig(**config),
            seed=1,
            out=tmp_path / name,
            log=MemoryLogger(),
        )

    return build


def flat(model: GPT) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


@pytest.mark.parametrize("split", [{"micro_batch_size": n} for n in (1, 2, 3, 4, 6)])
@pytest.mark.parametrize("packed", [False, True])
def test_any_split_of_a_batch_gives_the_same_update(
    gpt: Build, ragged: Source, trainer: Callable[..., Trainer], split: dict[str, int], packed: bool
) -> None:
    counts = [NextToken().counts(ragged.batch([i]))["next_token"] for i in range(7)]
    assert len(set(counts)) > 3  # a mean of means would differ
    found = []
    config = {"batch_size": 7, "schedule": Constant(0.0), "optimizer": OptimizerConfig(lr=1e-4)}
    for name, how in (("whole", {}), ("split", {**split, "packed": packed})):
        one = trainer(gpt(context_length=128), ragged, name, **how, **config)
        loss, norm = one.train_step()
        found.append((flat(one.model), loss, norm))
    (whole, loss, norm), (parts, split_loss, split_norm) = found
    assert float((parts - whole).norm() / whole.norm()) < 1e-6
    assert split_loss == pytest.approx(loss, rel=1e-6)
    assert split_norm == pytest.approx(norm, rel=1e-5)
    assert float((whole - flat(gpt(context_length=128))).norm() / whole.norm()) > 1e-4  # a step was taken


def test_the_gradient_is_that_of_the_mean_over_all_targets_of_the_batch(
    gpt: Build, ragged: Source, trainer: Callable[..., Trainer]
) -> None:
    model = gpt(context_length=128)
    batch = ragged.batch(range(7))
    logits = model(batch.inputs["tokens"]).flatten(0, 1)
    mean = F.cross_entropy(logits, batch.targets["labels"].flatten(), ignore_index=IGNORED)
    norm = torch.stack([g.norm() for g in torch.autograd.grad(mean, list(model.parameters()))]).norm()
    one = trainer(gpt(context_length=128), ragged, batch_size=7, micro_batch_size=2, clip=1e9)
    loss, found = one.train_step()
    assert loss == pytest.approx(mean.item(), rel=1e-5)
    assert found == pytest.approx(norm.item(), rel=1e-4)


def test_every_sample_is_seen_once_per_epoch_in_an_order_of_the_seed(
    gpt: Build, ragged: Source, trainer: Callable[..., Trainer]
) -> None:
    one = trainer(gpt(context_length=128), ragged, batch_size=3, epochs=2.0)
    assert (one.feed.steps_per_epoch, one.n_steps) == (3, 6)
    epochs = [[int(i) for step in range(e * 3, e * 3 + 3) for i in one.feed.indices(step)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(7))
    assert epochs[0] != epochs[1]
    again = trainer(gpt(context_length=128), ragged, batch_size=3)
    assert again.feed.indices(4).tolist() == one.feed.indices(4).tolist()  # a later step asked for first


def test_the_gradient_is_clipped_and_its_norm_told_before(
    gpt: Build, ragged: Source, trainer: Callable[..., Trainer]
) -> None:
    one = trainer(gpt(context_length=128), ragged, batch_size=7, clip=1e-3)
    _, norm = one.train_step()
    first = one.optimizer.state[one.model.get_parameter("token_embedding.weight")]["exp_avg"]
    assert norm > 1e-2
    assert float(first.norm()) <= 1e-3 * (1 - 0.9) * 1.001


def test_a_small_model_learns_a_fixed_batch_and_survives_a_checkpoint(prepared: Any, tmp_path: Path) -> None:
    config = GPTConfig(vocab_size=300, context_length=16, width=32, n_layers=2, n_heads=2)
    train = {"steps": 120, "optimizer": OptimizerConfig(lr=1e-2, weight_decay=0.0), "schedule": Constant()}
    run = prepared.run(
        model=config, data=prepared.held_out, train={**train, "batch_size": 64, "eval_every": 1000, "keep": "last"}
    )
    log = MemoryLogger()
    result = run.execute(tmp_path / "out", log)
    losses = [value for _, value in log.series("train/loss")]
    assert losses[0] > 5.0
    assert result.metrics["val/loss"] < 0.05
    loaded = checkpoint.load(result.path)
    again = evaluate(loaded.model, prepared.held_out.open(), NextToken(), batch_size=64)
    assert again.metrics["loss"] == result.metrics["val/loss"]


def test_the_best_weights_are_kept_or_the_last(prepared: Any, tmp_path: Path) -> None:
    """A rate far too high at the end of the run makes the held-out loss rise again."""
    train = {"steps": 20, "eval_every": 1, "optimizer": OptimizerConfig(lr=0.1), "schedule": Constant(warmup=0.0)}
    found = {}
    for keep in ("best", "last"):
        run = prepared.run(train={**train, "keep": keep, "sample_prompts": ()})
        result = run.execute(tmp_path / keep, MemoryLogger())
        history = [line["val/loss"] for line in read_history(tmp_path / keep / "metrics.jsonl") if "val/loss" in line]
        loaded = checkpoint.load(result.path).model
        measured = evaluate(loaded, prepared.held_out.open(), NextToken(), batch_size=4).loss
        assert measured == result.metrics["val/loss"]
        found[keep] = (measured, history)
    best, history = found["best"]
    assert best == pytest.approx(min(history), rel=1e-6)
    assert best < found["last"][0] - 0.01
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == [
        "checkpoint", "metrics.jsonl", "result.json", "run.json", "run.lock", "samples.jsonl",
    ]  # fmt: skip


# --- steps that are not finite


def poisoned(prepared: Any, gpt: Build, tmp_path: Path, *, n_bad: int | None) -> Path:
    """A checkpoint whose embedding of one rare token (or of every position) is not a number."""
    model = gpt(tied_head=False)
    tokenizer = Tokenizer.load(prepared.tokenizer)
    source = prepared.train.open()
    with torch.no_grad():
        if n_bad is None:
            model.position_embedding.weight.fill_(math.nan)
        else:
            model.token_embedding.weight[rare_token(source, n_bad)] = math.nan
    spec = ModelSpec(model.config, tokenizer_digest=tokenizer.digest)
    checkpoint.save(tmp_path / "poisoned", model=model, spec=spec, tokenizer=tokenizer)
    return tmp_path / "poisoned"


def rare_token(source: Source, n: int) -> int:
    windows = [source.batch([i]).inputs["tokens"][0] for i in range(source.n_samples)]
    in_windows = [sum(int((row == token).any()) for row in windows) for token in range(300)]
    return in_windows.index(n)


def test_a_loss_that_is_not_finite_skips_the_update_and_is_counted(
    prepared: Any, gpt: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    init = poisoned(prepared, gpt, tmp_path, n_bad=1)
    n_epoch = math.ceil(prepared.train.open().n_samples / 4)
    train = {"steps": 2 * n_epoch, "log_every": 1, "eval_every": 10**6, "sample_prompts": ()}
    log = MemoryLogger()
    with caplog.at_level(logging.WARNING):
        result = prepared.run(init=init, held_out=None, train=train).execute(tmp_path / "out", log)
    assert log.series("train/skipped_steps")[-1] == (2 * n_epoch, 2.0)  # its one window comes once per epoch
    assert sum("is not finite; the update is skipped" in text for text in caplog.messages) == 2
    losses = [value for _, value in log.series("train/loss")]
    assert all(math.isfinite(value) for value in losses)
    assert len(losses) == 2 * n_epoch - 2
    after = checkpoint.load(result.path).model.get_parameter("token_embedding.weight")
    assert int(after.isnan().any(dim=1).sum()) == 1


def test_eight_bad_steps_in_a_row_end_the_run_with_advice(prepared: Any, gpt: Build, tmp_path: Path) -> None:
    init = poisoned(prepared, gpt, tmp_path, n_bad=None)
    run = prepared.run(init=init, held_out=None, train={"steps": 50, "checkpoint_every": 100})
    message = (
        r"8 updates in a row were skipped, the last at step 7: loss \(nan\) or gradient norm \(nan\) is not finite. "
        r"Rollbacks before: none, and there is no checkpoint to return to. Lower train\.optimizer\.lr \(now 0\.003\)"
    )
    with pytest.raises(DivergedError, match=message):
        run.execute(tmp_path / "out", MemoryLogger())


class NothingToLearn:
    """A source whose rows have no target."""

    n_samples = 4
    fingerprint = ""
    tokenizer_digest = ""
    vocab_size = 300
    context_length = 4

    def order(self, **_: int) -> Any:
        return torch.arange(4).numpy()

    def batch(self, indices: Any, **_: bool) -> Batch:
        empty = torch.full((len(indices), 4), IGNORED)
        return Batch({"tokens": torch.zeros_like(empty)}, {"labels": empty})


def test_a_batch_without_any_target_is_an_error_not_a_loss_of_zero(gpt: Build, trainer: Callable[..., Trainer]) -> None:
    one = trainer(gpt(), NothingToLearn(), batch_size=2)
    with pytest.raises(DataError, match="the batch of step 0 has no target at all; check the data's ledger"):
        one.train_step()
