"""Runs that live and die in processes of their own, and small runs of each kind to live so."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.data import Instructions, LabelledText
from gptcore.models import GPTConfig
from gptcore.objectives import Classify
from gptcore.run import Run
from gptcore.tokenizer import Tokenizer
from gptcore.train import SpikePolicy
from gptcore.train.feed import Feed
from gptcore.transforms import Classifier, LoRA

LIVES = Path(__file__).with_name("lives.py")
ROOT = Path(__file__).parents[3]


class Runner:
    """Starts runs in other processes; torch is imported once for all of them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = 0
        self.lives = False

    def start(self, run: Run, out: Path, **job: Any) -> None:
        """Begin, or go on with, a run in a new process; it waits after each step unless told otherwise."""
        out.mkdir(parents=True, exist_ok=True)
        file = out.with_name(f"{out.name}.job.json")
        file.write_text(json.dumps({"run": run.to_dict(), "wait": True, **job, "out": str(out)}, default=str))
        self.say(str(file))
        self.pid = int(self.hear())
        self.lives = True

    def live(self, run: Run, out: Path, *, diary: Path, **job: Any) -> int:
        """Let a run live without waiting until it ends, by itself or by SIGKILL; its exit code."""
        diary.mkdir(parents=True)
        for name in ("diary.jsonl", "place.txt", "log.txt"):
            (diary / name).touch()
        self.start(run, out, wait=False, diary=diary, **job)
        while not (told := self.hear()).startswith("ended"):
            pass
        return int(told.removeprefix("ended"))

    def say(self, text: str = "") -> None:
        """One line; an empty one lets the run take its next step."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """The next line: a step that was done, a message, or how the process ended."""
        assert self.process.stdout is not None
        told = self.process.stdout.readline().strip()
        assert told, "the process that starts runs has ended"
        self.lives = self.lives and not told.startswith("ended")
        return told

    def end(self) -> None:
        """Kill the process by SIGKILL, if it lives."""
        if self.lives:
            os.kill(self.pid, signal.SIGKILL)
        while self.lives:
            self.hear()

    def advance(self, *, to: int) -> int:
        """Let it take steps until it has done at least ``to`` and waits; the step it is at."""
        while (step := int(self.hear())) < to:
            self.say()
        return step


@pytest.fixture
def runner(one_runner: Runner) -> Iterator[Runner]:
    """Starts runs in other processes, one at a time; what lives after the test is killed."""
    yield one_runner
    one_runner.end()


@pytest.fixture(scope="session")
def one_runner() -> Iterator[Runner]:
    """The process in which torch is imported."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        [sys.executable, str(LIVES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        try:
            found = Runner(process)
            assert found.hear() == "ready"
            yield found
        finally:
            process.kill()


def base_model(folder: Path, tokenizer: Path, **changes: Any) -> Path:
    """A checkpoint of a tiny model with dropout, to fine-tune."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "context_length": 48, "width": 16, "n_layers": 2, "n_heads": 2, "dropout": 0.2}
    config, known = GPTConfig(**{**sizes, **changes}), Tokenizer.load(tokenizer)
    spec = ModelSpec(config, tokenizer_digest=known.digest)
    checkpoint.save(folder, model=config.build(), spec=spec, tokenizer=known)
    return folder


@pytest.fixture
def kinds(prepared: Any, faulty: Callable[..., tuple[Run, int]], page: str, tmp_path: Path) -> dict[str, Run]:
    """A run of each kind, with dropout, micro-batches of unequal size, evaluations, best, passing and lasting
    checkpoints, and several epochs; one of them rolls back, and scales its loss for fp16."""
    lines = page.splitlines()
    rows = {
        "labelled": [{"text": line[:30], "label": ("calm", "fog")["fog" in line or "bell" in line]} for line in lines],
        "told": [{"instruction": f"Go on: {line[:20]}", "output": line[20:50]} for line in lines],
    }
    for name, values in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values))
    labelled = LabelledText(tmp_path / "labelled.jsonl", prepared.tokenizer, ("calm", "fog"), 48)
    told = Instructions(tmp_path / "told.jsonl", prepared.tokenizer, "short", 48)
    base = base_model(tmp_path / "base", prepared.tokenizer)
    train = {
        "steps": 10, "batch_size": 5, "micro_batch_size": 2, "log_every": 3, "eval_every": 3, "checkpoint_every": 2,
        "keep_last": 1, "keep_every": 8,
    }  # fmt: skip
    instructed = {"data": told, "held_out": told, "init": base, "template": "short"}
    return {
        "pretraining": prepared.run(train=train),
        "classification": prepared.run(
            data=labelled, held_out=labelled, init=base, objective=Classify(),
            transforms=(Classifier(labels=("calm", "fog")),), train={**train, "sample_prompts": ()},
        ),
        "instruction": prepared.run(**instructed, train=train),
        "lora": prepared.run(**instructed, transforms=(LoRA(rank=2, dropout=0.1),), train=train),
        "rollback": faulty(max_rollbacks=9, precision="fp16", **{**train, "sample_prompts": ()})[0],
    }  # fmt: skip


def spoiled(prepared: Any, folder: Path, token: int) -> Path:
    """A checkpoint in which one token's embedding is not a number."""
    base_model(folder, prepared.tokenizer, tied_head=False)
    loaded = checkpoint.load(folder)
    with torch.no_grad():
        loaded.model.get_parameter("token_embedding.weight")[token] = torch.nan
    checkpoint.save(folder, model=loaded.model, spec=loaded.spec, tokenizer=loaded.tokenizer)
    return folder


def rare(prepared: Any) -> tuple[int, int]:
    """A token that stands in one window alone, and the window."""
    source = prepared.train.open()
    windows = [source.batch([i]).inputs["tokens"] for i in range(source.n_samples)]
    for token in range(300):
        found = [i for i, window in enumerate(windows) if bool((window == token).any())]
        if len(found) == 1:
            return token, found[0]
    raise AssertionError("no token stands in one window alone")


@pytest.fixture
def faulty(prepared: Any, tmp_path: Path) -> Callable[..., tuple[Run, int]]:
    """Build a run whose loss is not a number at one step of each epoch, the first time late in it; and that step."""
    token, window = rare(prepared)
    init = spoiled(prepared, tmp_path / "spoiled", token)

    def build(*, max_rollbacks: int, patience: int = 1, **train: Any) -> tuple[Run, int]:
        policy = SpikePolicy(patience=patience, max_rollbacks=max_rollbacks)
        plain: dict[str, Any] = {"log_every": 1, "checkpoint_every": 1, "keep": "last", "spikes": policy}
        run = prepared.run(init=init, held_out=None, train={**plain, **train})
        for seed in range(1, 50):
            feed = Feed(prepared.train.open(), run.objective, batch_size=run.train.batch_size, seed=seed)
            step = next(s for s in range(feed.steps_per_epoch) if window in feed.indices(s))
            feed.close()
            if step >= 3:
                return dataclasses.replace(run, seed=seed), step
        raise AssertionError("no seed")

    return build
