"""Anyone's own files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.sources.base import INSTRUCTION_KEYS, PASSAGE_BYTES, Expected, Places, Row, SourceConfig
from gptcore.data import Document, read_documents, read_rows
from gptcore.data.ledger import Ledger
from gptcore.data.readers import MAX_DOCUMENT_BYTES
from gptcore.errors import ConfigError, DataError
from gptcore.files import file_sha256

_FEWEST_DOCUMENTS = 200
"""No text is a larger part of an own corpus: a split of a few large files would be far from the shares asked for."""


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
