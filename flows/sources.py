"""Where texts and rows come from: the demo's docstrings, the book's data sets, or anyone's own files.

A source says what it is (``digests``, part of every key downstream) and gives up to three streams: documents for
pretraining, rows ``text, label`` for classification, rows ``instruction, input, output`` for instructions. A row may
name the ``document`` it was made from; rows of one document never end up in different splits.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from flows.catalogue import DATA_SETS, fetch
from flows.docstring_tasks import instruction_rows, masked_text
from flows.docstrings import LIBRARIES, Docstring, demo_documents
from gptcore.config import Config
from gptcore.data import Document, near_duplicate_groups, read_documents, read_labelled_tsv, read_rows
from gptcore.data.ledger import Ledger
from gptcore.data.readers import MAX_DOCUMENT_BYTES
from gptcore.errors import ConfigError, DataError
from gptcore.files import file_sha256

Row = dict[str, str]
INSTRUCTION_KEYS = ("instruction", "output")
PASSAGE_BYTES = 4096
"""The shortest passage that a text is cut into."""
_FEWEST_DOCUMENTS = 200
"""No text is a larger part of an own corpus: a split of a few large files would be far from the shares asked for."""


class Places(NamedTuple):
    """Where files are looked for."""

    data_dir: Path | None
    """The user's folder with catalogued data sets; None downloads them."""
    cache: Path
    """Where downloads are kept."""
    added: Path | None = None
    """Where the data is that ``gptworks data add`` has taken in."""


class Expected(NamedTuple):
    """About how much a source holds, told before it is read as a whole."""

    corpus_chars: int
    """Characters of the texts for pretraining."""
    rows: dict[str, int]
    """Part -> its rows."""
    row_chars: dict[str, int]
    """Part -> the characters of all its rows."""
    seconds: float = 0.0
    """What finding the texts takes, beside preparing them."""


@dataclass(frozen=True)
class SourceConfig(Config):
    """Base of all sources."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The kinds of rows it has: ``classify``, ``instruct``."""
        return ("classify", "instruct")

    def digests(self, places: Places) -> dict[str, str]:
        """Name -> digest of everything that is read."""
        raise NotImplementedError

    def expected(self, places: Places) -> Expected:
        """About how much there is to prepare."""
        raise NotImplementedError

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document] | None:
        """Texts for pretraining; ``Document.source`` is the identity that decides the split. None: only rows."""
        raise NotImplementedError

    def labelled(self, places: Places) -> Iterator[Row] | None:
        """Rows ``text, label`` and perhaps ``document``; None if the source has none."""
        raise NotImplementedError

    def instructions(self, places: Places) -> Iterator[Row] | None:
        """Rows ``instruction, input, output`` and perhaps ``document``; None if the source has none."""
        raise NotImplementedError


@dataclass(frozen=True)
class Demo(SourceConfig):
    """The documentation inside the installed packages, read without importing them."""

    docstrings_per_library: int = 1200
    """Docstrings read from each library, in a fixed pseudo-random order of its files."""
    instruction_rows: int = 6000
    """Instruction rows, a fixed pseudo-random choice among all that the docstrings answer."""

    def digests(self, places: Places) -> dict[str, str]:
        """The versions of the libraries: the same versions hold the same docstrings."""
        del places
        names = {"sklearn": "scikit-learn"}
        versions = {
            library: importlib.metadata.version(names.get(library, library))
            for library in LIBRARIES
            if library != "stdlib"
        }
        return {**versions, "stdlib": platform.python_version()}

    def expected(self, places: Places) -> Expected:
        """From averages over the eight libraries, and the time that parsing took on one core."""
        del places
        n = len(LIBRARIES) * self.docstrings_per_library
        asked = min(self.instruction_rows, 4 * n)
        row_chars = {"classify": 400 * n, "instruct": 120 * asked}
        return Expected(1000 * n, {"classify": n, "instruct": asked}, row_chars, seconds=0.0025 * n)

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document]:
        """One page per docstring."""
        del places
        docstrings, skipped = self._read
        ledger.count("read", "in", n=len(docstrings) + skipped.total(), unit="places")
        ledger.count("read", "kept", n=len(docstrings), unit="places")
        for reason, n in sorted(skipped.items()):
            ledger.count("read", "dropped", n=n, reason=reason, unit="places")
        for docstring in docstrings:
            yield Document(docstring.page, self._groups[docstring.document])

    def labelled(self, places: Places) -> Iterator[Row]:
        """Which library a docstring comes from, its names masked."""
        del places
        for docstring in self._read[0]:
            document = self._groups[docstring.document]
            yield {"text": masked_text(docstring), "label": docstring.library, "document": document}

    def instructions(self, places: Places) -> Iterator[Row]:
        """Questions that a docstring or a signature answers."""
        del places
        rows = sorted(instruction_rows(self._read[0]), key=_order)
        for row in rows[: self.instruction_rows]:
            asked = {key: row[key] for key in ("instruction", "input", "output")}
            yield {**asked, "document": self._groups[row["document"]]}

    @cached_property
    def _read(self) -> tuple[list[Docstring], Counter[str]]:
        """A few megabytes, read once for all three streams; and what was left out, by reason."""
        skipped: Counter[str] = Counter()
        return list(demo_documents(limit_documents=self.docstrings_per_library, skipped=skipped)), skipped

    @cached_property
    def _groups(self) -> dict[str, str]:
        """Document -> the first document whose docstring is nearly the same: the two go into the same split."""
        documents = [docstring.document for docstring in self._read[0]]
        groups = near_duplicate_groups(docstring.text for docstring in self._read[0])
        return {document: documents[first] for document, first in zip(documents, groups, strict=True)}


@dataclass(frozen=True)
class Book(SourceConfig):
    """The Verdict and Tiny Shakespeare, the SMS Spam Collection, the book's 1,100 instructions."""

    def digests(self, places: Places) -> dict[str, str]:
        """The catalogue's sha256 of each set."""
        del places
        names = ("the-verdict", "tiny-shakespeare", "sms-spam", "book-instructions")
        return {name: DATA_SETS[name].sha256 for name in names}

    def expected(self, places: Places) -> Expected:
        """From the catalogue's sizes; of the messages, all spam and as much ham."""
        del places
        corpus = DATA_SETS["the-verdict"].size + DATA_SETS["tiny-shakespeare"].size
        spam, questions = 747, 1100
        row_chars = {"classify": 2 * spam * 110, "instruct": questions * 102}
        return Expected(corpus, {"classify": 2 * spam, "instruct": questions}, row_chars)

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document]:
        """Passages of both texts."""
        paths = [self._fetch(name, places) for name in ("the-verdict", "tiny-shakespeare")]
        return read_documents(paths, max_document_bytes=PASSAGE_BYTES, ledger=ledger)

    def labelled(self, places: Places) -> Iterator[Row]:
        """All 5,574 messages."""
        return read_labelled_tsv(self._fetch("sms-spam", places))

    def instructions(self, places: Places) -> Iterator[Row]:
        """All 1,100 rows."""
        return read_rows(self._fetch("book-instructions", places), required=INSTRUCTION_KEYS, optional=("input",))

    @staticmethod
    def _fetch(name: str, places: Places) -> Path:
        return fetch(name, data_dir=places.data_dir, cache=places.cache)


@dataclass(frozen=True)
class Files(SourceConfig):
    """Anyone's own files; a part that is not given is left out of the chain."""

    corpus: tuple[Path, ...] = ()
    """Files or folders of txt, md, jsonl, json, csv, tsv, parquet; without any, the rows' texts are the corpus."""
    labelled_rows: Path | None = None
    """jsonl, json, csv, tsv or parquet with ``text`` and ``label``."""
    instruction_rows: Path | None = None
    """The same with ``instruction``, ``output`` and perhaps ``input``."""

    def __post_init__(self) -> None:
        """Refuse a source without any path."""
        if not (self.corpus or self.labelled_rows or self.instruction_rows):
            raise ConfigError("own data needs at least one of --corpus, --labelled and --instructions")

    @property
    def parts(self) -> tuple[str, ...]:
        """The kinds of rows whose file is given."""
        given = {"classify": self.labelled_rows, "instruct": self.instruction_rows}
        return tuple(part for part, path in given.items() if path is not None)

    def digests(self, places: Places) -> dict[str, str]:
        """sha256 of every file."""
        del places
        rows = filter(None, (self.labelled_rows, self.instruction_rows))
        return {str(file): _digest(file) for file in _files([*self.corpus, *rows])}

    def expected(self, places: Places) -> Expected:
        """From the sizes of the files; the rows are counted.

        Raises:
            DataError: a file of rows is broken.
        """
        given = (("classify", self.labelled(places)), ("instruct", self.instructions(places)))
        lengths = {part: [sum(map(len, row.values())) for row in rows] for part, rows in given if rows is not None}
        row_chars = {part: sum(each) for part, each in lengths.items()}
        corpus = sum(file.stat().st_size for file in _files(self.corpus)) or sum(row_chars.values())
        return Expected(corpus, {part: len(each) for part, each in lengths.items()}, row_chars)

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document] | None:
        """The texts; one that is a large part of all of them is read in passages, so that they can be split."""
        del places
        if not self.corpus:
            return None
        n_bytes = sum(file.stat().st_size for file in _files(self.corpus))
        longest = min(MAX_DOCUMENT_BYTES, max(PASSAGE_BYTES, n_bytes // _FEWEST_DOCUMENTS))
        return read_documents(self.corpus, max_document_bytes=longest, ledger=ledger)

    def labelled(self, places: Places) -> Iterator[Row] | None:
        """The user's labelled rows."""
        del places
        return None if self.labelled_rows is None else read_rows(self.labelled_rows, required=("text", "label"))

    def instructions(self, places: Places) -> Iterator[Row] | None:
        """The user's instruction rows."""
        del places
        if self.instruction_rows is None:
            return None
        return read_rows(self.instruction_rows, required=INSTRUCTION_KEYS, optional=("input",))


def _files(paths: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist; check the path given by --corpus, --labelled or --instructions")
        files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return files


def _digest(file: Path) -> str:
    try:
        return file_sha256(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); check the path and its permissions") from error


def _order(row: Mapping[str, str]) -> bytes:
    return hashlib.sha256(row["instruction"].encode()).digest()
