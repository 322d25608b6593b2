"""LabelledText: texts with a class each (classification fine-tuning), read as ``gptcore.readers.TextReader`` says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptcore.config import nearest
from gptcore.data.base import Data
from gptcore.data.ledger import Ledger
from gptcore.data.readers import numbered_rows, row_place
from gptcore.data.rows import PaddedRows, RowClasses
from gptcore.errors import ConfigError, DataError
from gptcore.readers import LongInputs, TextReader
from gptcore.tokenizer import Tokenizer


@dataclass(frozen=True)
class LabelledText(Data):
    """Rows with the keys ``text`` and ``label``."""

    path: Path
    """A jsonl, json, csv, tsv or parquet file."""
    tokenizer: Path
    """Folder of the tokenizer."""
    labels: tuple[str, ...]
    """Class names; the place in this list is the class id."""
    context_length: int
    """Longest row in tokens."""
    long_inputs: LongInputs = "head"
    """Which part of a longer text is read."""
    split: str = "train"
    """Name of this part in the ledger."""
    end_token: bool = True
    """Whether ``<|endoftext|>`` ends each row. The class is read at the last token: this one stands in the same place
    for every text and has seen all of it (the extract token of GPT-1, "Improving Language Understanding by Generative
    Pre-Training", section 3.3), where a text's own last word is mostly about itself."""

    @property
    def reader(self) -> TextReader:
        """How each text is read."""
        return TextReader(self.long_inputs, self.end_token, longest=self.context_length)

    def open(self) -> PaddedRows:
        """Read and encode all rows.

        Raises:
            ConfigError: ``labels`` has fewer than two names or one twice, or ``context_length`` is below 2.
            DataError: the file is broken, a label is not in ``labels``, or all rows are of one class.
        """
        self._check()
        tokenizer = Tokenizer.load(self.tokenizer)
        ids = {name: i for i, name in enumerate(self.labels)}
        ledger, reader, tokens, classes = Ledger(), self.reader, [], []
        for number, row in numbered_rows(self.path, required=("text", "label")):
            if row["label"] not in ids:
                raise DataError(
                    f"{row_place(self.path, number)}: the label {row['label']!r} was never seen in training"
                    f"{nearest(row['label'], ids)}"
                )
            ledger.count("encode", "in", split=self.split)
            read = reader.read(row["text"], tokenizer=tokenizer, context_length=self.context_length)
            if not read.n_read:
                ledger.count("encode", "dropped", reason="empty text", split=self.split)
                continue
            if read.n_left_out:
                ledger.count(
                    "encode", "cut", reason=f"longer than the context, {self.long_inputs} kept", split=self.split
                )
            ledger.count("encode", "kept", split=self.split)
            ledger.count("encode", "tokens", n=len(read.ids), split=self.split, unit="tokens")
            tokens.append(read.ids)
            classes.append(ids[row["label"]])
        _check_classes(Counter(self.labels[i] for i in classes), path=self.path)
        return PaddedRows(tokens, RowClasses(np.array(classes, dtype=np.int64)), tokenizer=tokenizer, ledger=ledger)

    def _check(self) -> None:
        if len(set(self.labels)) < max(2, len(self.labels)):
            raise ConfigError(f"LabelledText.labels is {self.labels}; it must hold two or more names, each once")
        if self.context_length < 2:
            raise ConfigError(f"LabelledText.context_length is {self.context_length}; it must be at least 2")


def label_names(path: Path) -> tuple[str, ...]:
    """The class names of a file of rows, sorted; to be taken from the training split.

    Raises:
        DataError: the file is broken or all rows are of one class.
    """
    counts = Counter(row["label"] for _, row in numbered_rows(path, required=("text", "label")))
    _check_classes(counts, path=path)
    return tuple(sorted(counts))


def _check_classes(counts: Counter[str], *, path: Path) -> None:
    if len(counts) == 1:
        (name, n), *_ = counts.items()
        raise DataError(
            f"{path}: all {n:,} rows have the label {name!r}; a classifier needs rows of two classes or more"
        )
