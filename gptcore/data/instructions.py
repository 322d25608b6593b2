"""Instructions: prompts with their responses (instruction fine-tuning).

Prompt and response are encoded apart and joined, as generation will see them. Labels are the next tokens; the prompt
(if masked) and the padding are not targets, the end token is one. A row whose targets were all cut away is dropped and
counted: it would train nothing and its mean loss would be 0 / 0.

Shapes: T + 1 tokens of prompt and response give T inputs and T labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from gptcore.batch import IGNORED
from gptcore.data.base import Data
from gptcore.data.ledger import FULLY_MASKED, Ledger
from gptcore.data.readers import read_numbered_rows, row_place
from gptcore.data.rows import Ids, PaddedRows, TokenLabels
from gptcore.data.templates import PromptTemplate, template_by_name
from gptcore.errors import ConfigError, DataError
from gptcore.tokenizer import Tokenizer


@dataclass(frozen=True)
class Instructions(Data):
    """Rows with the keys ``instruction``, ``output`` and, if they like, ``input``."""

    path: Path
    """A jsonl, json, csv, tsv or parquet file."""
    tokenizer: Path
    """Folder of the tokenizer; it must have the template's special tokens."""
    template: str
    """Name of the prompt style."""
    context_length: int
    """Longest row in input tokens."""
    mask_prompt: bool = True
    """Only the response is a target."""
    too_long: Literal["drop", "cut", "error"] = "cut"
    """What to do with a row that is longer than the context."""
    split: str = "train"
    """Name of this part in the ledger."""

    def open(self) -> PaddedRows:
        """Read and encode all rows.

        Raises:
            ConfigError: unknown template, or one whose special tokens the tokenizer lacks; ``context_length`` below 1.
            DataError: the file is broken, a row is too long (``too_long="error"``), or no usable target is left.
        """
        if self.context_length < 1:
            raise ConfigError(f"expected Instructions.context_length to be at least 1, got {self.context_length}")
        template = template_by_name(self.template)
        tokenizer = Tokenizer.load(self.tokenizer)
        template.check_tokenizer(tokenizer)
        ledger, tokens, labels = Ledger(), [], []
        for number, row in read_numbered_rows(self.path, required=("instruction", "output"), optional=("input",)):
            ledger.count("encode", "in", split=self.split)
            pair = self._encode_row(row, number=number, template=template, tokenizer=tokenizer, ledger=ledger)
            if pair is not None:
                ledger.count("encode", "kept", split=self.split)
                ledger.count("encode", "tokens", n=len(pair[0]), split=self.split, unit="tokens")
                tokens.append(pair[0])
                labels.append(pair[1])
        if not tokens:
            raise DataError(self._explain_empty(ledger))
        return PaddedRows(tokens, TokenLabels(labels), tokenizer=tokenizer, ledger=ledger)

    def _encode_row(
        self, row: dict[str, str], *, number: int, template: PromptTemplate, tokenizer: Tokenizer, ledger: Ledger
    ) -> tuple[Ids, Ids] | None:
        """Inputs (T,) and labels (T,) of one row, or None if it was dropped."""
        if not row["output"].strip():
            ledger.count("encode", "dropped", reason="empty output", split=self.split)
            return None
        prompt = template.encode_prompt(row["instruction"], row["input"], tokenizer=tokenizer)
        full = np.array([*prompt, *template.encode_response(row["output"], tokenizer=tokenizer)], dtype=np.int64)
        longest = self.context_length + 1
        if len(full) > longest:
            if self.too_long == "error":
                raise DataError(
                    f"{row_place(self.path, number)}: {len(full):,} tokens, context_length {self.context_length} "
                    f"allows {longest:,}; shorten it, or choose too_long = cut or drop"
                )
            if self.too_long == "drop":
                ledger.count("encode", "dropped", reason="longer than the context", split=self.split)
                return None
            full = full[:longest]
            if self.mask_prompt and len(prompt) >= longest:
                ledger.count("encode", "dropped", reason=FULLY_MASKED, split=self.split)
                return None
            ledger.count("encode", "cut", reason="longer than the context", split=self.split)
        labels = full[1:].copy()
        if self.mask_prompt:
            labels[: len(prompt) - 1] = IGNORED
        return full[:-1], labels

    def _explain_empty(self, ledger: Ledger) -> str:
        reasons = ", ".join(
            f"{line['n']:,} {line['reason']}" for line in ledger.to_rows() if line["outcome"] == "dropped"
        )
        return (
            f"{self.path}: not one of {ledger.total('in'):,} rows has a usable target ({reasons}); raise "
            f"context_length (now {self.context_length}), choose a shorter template than "
            f"{self.template!r}, or shorten the rows"
        )
