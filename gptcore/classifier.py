"""TextClassifier: texts in, classes out, read as the checkpoint says that it was trained to read.

Shapes: n texts, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gptcore import checkpoint
from gptcore.data.ledger import Ledger
from gptcore.data.rows import PaddedRows, RowClasses
from gptcore.errors import ConfigError, DataError
from gptcore.measures import class_probabilities
from gptcore.models.network import Network
from gptcore.readers import TextReader
from gptcore.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextClassifier:
    """A classifier of text."""

    model: Network
    """The network."""
    tokenizer: Tokenizer
    """Its tokenizer."""
    reader: TextReader
    """How it reads a text."""
    labels: tuple[str, ...]
    """Its classes, in the order of their ids."""
    context_length: int
    """The most positions that it can see at once."""

    @staticmethod
    def load(path: Path) -> TextClassifier:
        """Read a checkpoint.

        Raises:
            ConfigError: it has no classes, or does not read text.
            CheckpointError: it is missing or damaged.
        """
        loaded = checkpoint.load(path)
        labels = loaded.spec.outputs
        if loaded.spec.head != "classes":
            raise ConfigError(f"expected a classifier, got {path}, which has no classes; fine-tune one from it")
        context_length = loaded.spec.words.context_length
        return TextClassifier(loaded.model, loaded.tokenizer, loaded.spec.reader, labels, context_length)

    def probabilities(self, texts: Sequence[str], *, batch_size: int = 32) -> Tensor:
        """(n, K) fp32: the probability of each class for each text.

        Raises:
            DataError: a text is empty, and its row has no end token that could be read instead.
        """
        context = self.context_length
        rows = [self.reader.read(text, tokenizer=self.tokenizer, context_length=context).ids for text in texts]
        if (empty := next((i for i, row in enumerate(rows) if not len(row)), None)) is not None:
            raise DataError(f"expected a text to classify, got an empty one in row {empty}; leave it out")
        if not rows:
            return torch.zeros(0, len(self.labels))
        unknown = RowClasses(np.zeros(len(rows), dtype=np.int64))
        source = PaddedRows(rows, unknown, tokenizer=self.tokenizer, ledger=Ledger())
        return class_probabilities(self.model, source, batch_size=batch_size)

    def classify(self, texts: Sequence[str], *, batch_size: int = 32) -> list[str]:
        """The likeliest class of each text.

        Raises:
            DataError: as ``probabilities``.
        """
        return [self.labels[i] for i in self.probabilities(texts, batch_size=batch_size).argmax(dim=1).tolist()]
