"""Where texts and rows come from: the demo's docstrings, the book's data sets, or anyone's own files.

A source says what it is (``digests``, part of every key downstream) and gives streams: documents for pretraining, and
rows for each part of the data that it has (``flows.sources.parts``). A row may name the ``document`` it was made from;
rows of one document never end up in different splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flows.sources.parts import Part
from gptcore.config import Config
from gptcore.data import Document
from gptcore.data.ledger import Ledger
from gptcore.data.readers import MAX_DOCUMENT_BYTES

Row = dict[str, str]
"""A row's columns, and perhaps ``document``."""
PASSAGE_BYTES = 4096
"""The shortest passage that a text is cut into."""
_FEWEST_PASSAGES = 200
"""No text is a larger part of what is split: with a few large ones it would be far from the shares asked for."""


class Places(NamedTuple):
    """Where files are looked for."""

    data_dir: Path | None
    """The user's folder with catalogued data sets; None downloads them."""
    cache: Path
    """Where downloads are kept."""
    added: Path | None = None
    """Where the data is that ``gptworks data add`` has taken in."""


class SourceEstimate(NamedTuple):
    """About how much a source holds, estimated before it is read as a whole."""

    corpus_chars: int
    """Characters of the texts for pretraining."""
    rows: dict[str, int]
    """Part -> its rows."""
    row_chars: dict[str, int]
    """Part -> the characters of all its rows."""
    seconds: float = 0.0
    """What finding the texts takes, beside preparing them."""


def passage_bytes(n_bytes: int) -> int:
    """How long the passages are, at most, that texts of so many bytes in all are read in."""
    return min(MAX_DOCUMENT_BYTES, max(PASSAGE_BYTES, n_bytes // _FEWEST_PASSAGES))


@dataclass(frozen=True)
class SourceConfig(Config):
    """Base of all sources."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that it has rows for, in the order in which they are prepared."""
        return ("classify", "instruct")

    def digests(self, places: Places) -> dict[str, str]:
        """Name -> digest of everything that is read."""
        raise NotImplementedError

    def estimate(self, places: Places) -> SourceEstimate:
        """Estimate how much there is to prepare."""
        raise NotImplementedError

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document] | None:
        """Texts for pretraining; ``Document.source`` is the identity that decides the split. None: only rows."""
        raise NotImplementedError

    def rows(self, part: Part, places: Places) -> Iterator[Row] | None:
        """The rows of a part, with its keys and perhaps ``document``; None if the source has none."""
        raise NotImplementedError
