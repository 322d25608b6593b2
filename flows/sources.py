"""Where texts and rows come from: the demo's docstrings, the book's data sets, or anyone's own files.

A source says what it is (``digests``, part of every key downstream) and gives up to three streams: documents for
pretraining, rows ``text, label`` for classification, rows ``instruction, input, output`` for instructions. A row may
name the ``document`` it was made from; rows of one document never end up in different splits.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from flows.catalogue import DATA_SETS, fetch
from flows.docstring_tasks import instruction_rows, masked_text
from flows.docstrings import LIBRARIES, Docstring, demo_documents
from gptcore.config import Config
from gptcore.data import Document, read_documents, read_labelled_tsv, read_rows
from gptcore.data.ledger import Ledger
from gptcore.errors import ConfigError, DataError
from gptcore.files import file_sha256

Row = dict[str, str]
INSTRUCTION_KEYS = ("instruction", "output")


class Places(NamedTuple):
    """Where files are looked for."""

    data_dir: Path | None
    """The user's folder with catalogued data sets; None downloads them."""
    cache: Path
    """Where downloads are kept."""


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

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document]:
        """Texts for pretraining; ``Document.source`` is the identity that decides the split."""
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

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document]:
        """One page per docstring."""
        del places
        docstrings, skipped = self._read
        for docstring in docstrings:
            yield Document(docstring.page, docstring.document)
        for reason, n in sorted(skipped.items()):
            ledger.count("read", "in", n=n, unit="places")
            ledger.count("read", "dropped", n=n, reason=reason, unit="places")

    def labelled(self, places: Places) -> Iterator[Row]:
        """Which library a docstring comes from, its names masked."""
        del places
        for docstring in self._read[0]:
            yield {"text": masked_text(docstring), "label": docstring.library, "document": docstring.document}

    def instructions(self, places: Places) -> Iterator[Row]:
        """Questions that a docstring or a signature answers."""
        del places
        rows = sorted(instruction_rows(self._read[0]), key=_order)
        for row in rows[: self.instruction_rows]:
            yield {key: row[key] for key in ("instruction", "input", "output", "document")}

    @cached_property
    def _read(self) -> tuple[list[Docstring], Counter[str]]:
        """A few megabytes, read once for all three streams; and what was left out, by reason."""
        skipped: Counter[str] = Counter()
        return list(demo_documents(limit_documents=self.docstrings_per_library, skipped=skipped)), skipped


@dataclass(frozen=True)
class Book(SourceConfig):
    """The Verdict and Tiny Shakespeare, the SMS Spam Collection, the book's 1,100 instructions."""

    def digests(self, places: Places) -> dict[str, str]:
        """The catalogue's sha256 of each set."""
        del places
        names = ("the-verdict", "tiny-shakespeare", "sms-spam", "book-instructions")
        return {name: DATA_SETS[name].sha256 for name in names}

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document]:
        """Passages of both texts."""
        paths = [self._fetch(name, places) for name in ("the-verdict", "tiny-shakespeare")]
        return read_documents(paths, max_document_bytes=4096, ledger=ledger)

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
    """Files or folders of txt, md, jsonl, csv, tsv, parquet; without any, the rows' texts are the corpus."""
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
        given = [*self.corpus, *filter(None, (self.labelled_rows, self.instruction_rows))]
        files: list[Path] = []
        for path in given:
            if not path.exists():
                raise DataError(
                    f"{path} does not exist; check the path given by --corpus, --labelled or --instructions"
                )
            files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        return {str(file): _digest(file) for file in files}

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document]:
        """The corpus, or the texts of the rows."""
        if self.corpus:
            return read_documents(self.corpus, ledger=ledger)
        rows = itertools.chain(self.labelled(places) or (), self.instructions(places) or ())
        return (Document(_as_text(row), f"row {i}") for i, row in enumerate(rows))

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


def _digest(file: Path) -> str:
    try:
        return file_sha256(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); check the path and its permissions") from error


def _order(row: Mapping[str, str]) -> bytes:
    return hashlib.sha256(row["instruction"].encode()).digest()


def _as_text(row: Mapping[str, str]) -> str:
    return "\n".join(row[key] for key in ("text", "instruction", "input", "output") if row.get(key))
