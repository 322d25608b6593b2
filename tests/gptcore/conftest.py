"""Small real parts for the tests of gptcore: a tokenizer trained on a page of text, tiny models, token shards, runs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore.data.corpus import write_shards
from gptcore.data.windows import TokenWindows
from gptcore.models.gpt import GPT, GPTConfig
from gptcore.objectives import NextToken
from gptcore.run import Run
from gptcore.tokenizer import Tokenizer, train_bpe
from gptcore.train import OptimizerConfig, TrainConfig

PAGE = """The lighthouse keeper counted the ships each evening and wrote their number in a green book.
On the first of March he saw four; on the second, none at all, for the fog lay thick upon the water.
"A keeper who cannot see," he said to the cat, "is only a man who lives in a tall and narrow house."
The cat, who had heard this before, looked out of the window at the place where the harbour ought to be.
Far below them the bell rang seven times, then stopped, then rang again, as if it had lost its count.
By morning the wind had turned. The fog went out with the tide, and behind it stood a ship with red sails.
Nobody in the village knew the flag. The baker thought it came from the north; the teacher looked it up.
It was in no atlas. So they rowed out, six of them in the old boat, and asked the captain where he was from.
He pointed at the lighthouse. "From there," he said. "I have been following that light for eleven years."
"""
TINY = {"vocab_size": 300, "context_length": 32, "width": 16, "n_layers": 2, "n_heads": 2}


@pytest.fixture(scope="session")
def page() -> str:
    """A page of English text."""
    return PAGE


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """300 tokens learned from the page."""
    return train_bpe([PAGE], vocab_size=300)


@pytest.fixture
def gpt() -> Callable[..., GPT]:
    """Build a tiny GPT in evaluation mode; its weights are large enough that every layer shapes the logits."""

    def build(seed: int = 0, **changes: Any) -> GPT:
        torch.manual_seed(seed)
        model = GPTConfig(**{**TINY, **changes}).build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.15 * torch.randn_like(parameter)
        return model.eval()

    return build


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> dict[int, os.stat_result]:
    """What was flushed to the disk, by inode, as it was then."""
    found: dict[int, os.stat_result] = {}
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        flush(descriptor)
        told = os.fstat(descriptor)
        found[told.st_ino] = told

    monkeypatch.setattr(os, "fsync", fsync)
    return found


@dataclass(frozen=True)
class Prepared:
    """Data on disk and the run that trains on it."""

    tokenizer: Path
    """Folder of the tokenizer."""
    train: TokenWindows
    """The page, cut into windows of 16."""
    held_out: TokenWindows
    """Its last two lines."""

    def run(self, *, train: dict[str, Any] | None = None, **changes: Any) -> Run:
        """A run of twelve steps with dropout and held-out evaluations, changed as told."""
        config = TrainConfig(
            steps=12,
            batch_size=4,
            optimizer=OptimizerConfig(lr=3e-3),
            eval_every=5,
            log_every=3,
            checkpoint_every=4,
            sample_prompts=("The cat",),
        )
        model = None if "init" in changes else GPTConfig(**{**TINY, "dropout": 0.2})
        run = Run(
            data=self.train,
            objective=NextToken(),
            tokenizer=self.tokenizer,
            held_out=self.held_out,
            model=model,
            init=changes.pop("init", None),
            train=dataclasses.replace(config, **(train or {})),
        )
        return dataclasses.replace(run, **changes)


@pytest.fixture(scope="session")
def prepare(tokenizer: Tokenizer) -> Callable[[Path], Prepared]:
    """Writes the page as token shards, with its tokenizer, to a folder."""

    def write(folder: Path) -> Prepared:
        tokenizer.save(folder / "tokenizer")
        lines = PAGE.splitlines(keepends=True)
        write_shards(["".join(lines[:-2])], tokenizer=tokenizer, folder=folder / "train")
        write_shards(["".join(lines[-2:])], tokenizer=tokenizer, folder=folder / "held_out")
        return Prepared(
            folder / "tokenizer",
            TokenWindows(folder=folder / "train", context_length=16),
            TokenWindows(folder=folder / "held_out", context_length=16),
        )

    return write


@pytest.fixture
def prepared(prepare: Callable[[Path], Prepared], tmp_path: Path) -> Prepared:
    """The page as token shards, with its tokenizer."""
    return prepare(tmp_path / "data")
