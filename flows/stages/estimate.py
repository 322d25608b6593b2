"""What is needed to estimate what a stage will cost, before anything is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from flows.sources.base import Places
from flows.stages.base import base_sizes
from flows.stages.pipeline import Pipeline
from flows.stages.prepare.result import PrepareResult
from gptcore.models import PRESETS, WordNetworkConfig
from gptcore.train import TrainConfig

FORWARD_AND_BACKWARD, FORWARD = 6.0, 2.0
"""Floating-point operations for each parameter and token (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361)."""
_TEMPLATE_TOKENS = 30
"""What a prompt template adds to an instruction."""


class Cost(NamedTuple):
    """What a stage will cost."""

    words: str
    """Amounts, for people."""
    seconds: float = 0.0
    """Time, as far as it does not depend on the processors."""
    operations: float = 0.0
    """Floating-point operations."""


class Pass(NamedTuple):
    """Tokens that go through the model."""

    tokens: float
    operations: float
    """Floating-point operations for each of them."""


@dataclass(frozen=True)
class Amounts:
    """What there is to train on."""

    tokens: float
    """Training tokens of the corpus."""
    rows: dict[str, float]
    """Part -> training rows."""
    test: dict[str, float]
    """Part -> test rows."""
    row_chars: dict[str, float]
    """Part -> characters of an average row."""
    vocab_size: int
    known: bool
    """Whether the data is prepared; before, all is estimated from the sizes of the sources."""


@dataclass(frozen=True)
class Estimate:
    """A chain, seen from outside."""

    pipeline: Pipeline
    """The resolved configuration."""
    places: Places
    """Where source files are."""
    prepared: PrepareResult | None
    """The prepared data, if it exists."""

    @cached_property
    def model(self) -> WordNetworkConfig | None:
        """The sizes of the base model; None where they are not known before it is fetched."""
        return base_sizes(self.pipeline)

    @cached_property
    def amounts(self) -> Amounts:
        """From the prepared data if it exists, otherwise from the sizes of the sources and the shares of the splits."""
        if self.prepared is not None:
            parts = self.prepared.parts
            return Amounts(
                tokens=self.prepared.tokens["train"],
                rows={part: each.rows["train"] for part, each in parts.items()},
                test={part: each.rows["test"] for part, each in parts.items()},
                row_chars={part: each.train_chars / each.rows["train"] for part, each in parts.items()},
                vocab_size=self.prepared.vocab_size,
                known=True,
            )
        config, there = self.pipeline.prepare, self.pipeline.prepare.source.estimate(self.places)
        vocab_size = config.vocab_size if config.tokenizer == "bpe" else PRESETS["gpt2-small"].vocab_size
        return Amounts(
            tokens=there.corpus_chars * config.corpus_split[0] / _chars_per_token(vocab_size),
            rows={part: n * config.split(part)[0] for part, n in there.rows.items()},
            test={part: n * config.split(part)[2] for part, n in there.rows.items()},
            row_chars={part: there.row_chars[part] / max(1, n) for part, n in there.rows.items()},
            vocab_size=vocab_size,
            known=False,
        )

    def row_tokens(self, part: str) -> float:
        """Tokens of an average row, as far as they fit the context; 0 where the data has no such rows."""
        if self.model is None or part not in self.amounts.row_chars:
            return 0.0
        tokens = self.amounts.row_chars[part] / _chars_per_token(self.amounts.vocab_size)
        return min(self.model.context_length, tokens + _TEMPLATE_TOKENS * (part == "instruct"))

    @property
    def blocks(self) -> float:
        """Parameters of the blocks."""
        assert self.model is not None
        return 12 * self.model.n_layers * self.model.width**2

    @property
    def whole(self) -> float:
        """Parameters that a word goes through: the blocks' and the head's. A classifier has no use for the latter."""
        assert self.model is not None
        return self.blocks + self.amounts.vocab_size * self.model.width

    def training(self, part: str, train: TrainConfig, parameters: float) -> Pass:
        """The tokens of a training on a part of the data; none where the data has no such rows."""
        rows = n_samples(self.amounts.rows.get(part, 0.0), train)
        return Pass(rows * self.row_tokens(part), FORWARD_AND_BACKWARD * parameters)

    def cost(self, *passes: Pass) -> Cost:
        """What tokens through the model cost, in words and in operations."""
        tokens = sum(each.tokens for each in passes)
        operations = sum(each.tokens * each.operations for each in passes)
        about = "" if self.amounts.known else "about "
        return Cost(f"{about}{tokens / 1e6:.2f} M tokens, {operations / 1e12:.1f} TFLOP", operations=operations)


def n_samples(n_rows: float, train: TrainConfig) -> float:
    """Samples that a training sees."""
    return train.steps * train.batch_size if train.steps is not None else train.epochs * n_rows


def _chars_per_token(vocab_size: int) -> float:
    """Of byte-level BPEs on English: 1.9 measured with 512 tokens, 3.7 with 4,096, 4.4 with GPT-2's 50,257."""
    return min(4.4, max(1.0, 0.6 * math.log2(vocab_size) - 3.5))
