"""The data sets of "Build a Large Language Model (From Scratch)"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.sources.base import PASSAGE_BYTES, Places, Row, SourceConfig, SourceEstimate
from flows.sources.catalogue import DATA_SETS, fetch
from flows.sources.parts import CLASSIFY, INSTRUCT, Part
from gptcore.data import Document, read_documents, read_labelled_tsv, read_rows
from gptcore.data.ledger import Ledger


@dataclass(frozen=True)
class Book(SourceConfig):
    """The Verdict and Tiny Shakespeare, the SMS Spam Collection, the book's 1,100 instructions."""

    def digests(self, places: Places) -> dict[str, str]:
        """The catalogue's sha256 of each set."""
        del places
        names = ("the-verdict", "tiny-shakespeare", "sms-spam", "book-instructions")
        return {name: DATA_SETS[name].sha256 for name in names}

    def estimate(self, places: Places) -> SourceEstimate:
        """From the catalogue's sizes; of the messages, all spam and as much ham."""
        del places
        corpus = DATA_SETS["the-verdict"].size + DATA_SETS["tiny-shakespeare"].size
        spam, questions = 747, 1100
        row_chars = {"classify": 2 * spam * 110, "instruct": questions * 102}
        return SourceEstimate(corpus, {"classify": 2 * spam, "instruct": questions}, row_chars)

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document]:
        """Passages of both texts."""
        paths = [self._fetch(name, places) for name in ("the-verdict", "tiny-shakespeare")]
        return read_documents(paths, max_document_bytes=PASSAGE_BYTES, ledger=ledger)

    def rows(self, part: Part, places: Places) -> Iterator[Row] | None:
        """All 5,574 messages; all 1,100 instructions."""
        if part == CLASSIFY:
            return read_labelled_tsv(self._fetch("sms-spam", places))
        if part == INSTRUCT:
            path = self._fetch("book-instructions", places)
            return read_rows(path, required=part.required, optional=part.optional)
        return None

    @staticmethod
    def _fetch(name: str, places: Places) -> Path:
        return fetch(name, data_dir=places.data_dir, cache=places.cache)
