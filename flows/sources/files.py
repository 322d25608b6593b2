"""Anyone's own files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flows.sources.base import Places, Row, SourceConfig, SourceEstimate, passage_bytes
from flows.sources.parts import Part, find_part, list_options, list_parts
from gptcore.config import later
from gptcore.data import Document, read_documents, read_rows
from gptcore.data.ledger import Ledger
from gptcore.errors import ConfigError, DataError
from gptcore.files import file_sha256

_OWN_FIELDS = {"classify": "labelled_rows", "instruct": "instruction_rows"}
"""Parts whose files have fields of their own."""


@dataclass(frozen=True)
class Files(SourceConfig):
    """Anyone's own files; a part that is not given is left out of the chain."""

    corpus: tuple[Path, ...] = ()
    """Files or folders of txt, md, jsonl, json, csv, tsv, parquet; without any, the rows' texts are the corpus."""
    labelled_rows: Path | None = None
    """jsonl, json, csv, tsv or parquet with ``text`` and ``label``."""
    instruction_rows: Path | None = None
    """The same with ``instruction``, ``output`` and perhaps ``input``."""
    more: tuple[tuple[str, Path], ...] = later(())
    """Name and file of every further part."""

    def __post_init__(self) -> None:
        """Refuse a source without any path, and rows of a part that nobody knows or that are given twice."""
        names = [name for name, _ in self.more]
        for name in names:
            find_part(name)
            if name in _OWN_FIELDS or names.count(name) > 1:
                raise ConfigError(f"Files.more gives rows of {name!r}; expected each further part once")
        if not (self.corpus or self.paths):
            raise ConfigError(f"own data needs at least one of --corpus, {list_options()}")

    @classmethod
    def of(cls, corpus: Iterable[Path], rows: Mapping[str, Path]) -> Self:
        """The source of these texts and of these files of rows, by the name of their part.

        Raises:
            ConfigError: nothing is given, or a part is unknown.
        """
        own: dict[str, Any] = {field: rows.get(part) for part, field in _OWN_FIELDS.items()}
        more = tuple(sorted((part, path) for part, path in rows.items() if part not in _OWN_FIELDS))
        return cls(corpus=tuple(corpus), more=more, **own)

    @property
    def paths(self) -> dict[str, Path]:
        """Part -> its file, for those that are given."""
        own = {part: getattr(self, field) for part, field in _OWN_FIELDS.items()}
        return {part: path for part, path in {**own, **dict(self.more)}.items() if path is not None}

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts whose file is given."""
        return tuple(self.paths)

    def digests(self, places: Places) -> dict[str, str]:
        """sha256 of every file."""
        del places
        return {str(file): _digest(file) for file in _files([*self.corpus, *self.paths.values()])}

    def estimate(self, places: Places) -> SourceEstimate:
        """From the sizes of the files; the rows are counted.

        Raises:
            DataError: a file of rows is broken.
        """
        given = {part.name: rows for part in list_parts() if (rows := self.rows(part, places)) is not None}
        lengths = {part: [sum(map(len, row.values())) for row in rows] for part, rows in given.items()}
        row_chars = {part: sum(each) for part, each in lengths.items()}
        corpus = sum(file.stat().st_size for file in _files(self.corpus)) or sum(row_chars.values())
        return SourceEstimate(corpus, {part: len(each) for part, each in lengths.items()}, row_chars)

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document] | None:
        """The texts; one that is a large part of all of them is read in passages, so that they can be split."""
        del places
        if not self.corpus:
            return None
        n_bytes = sum(file.stat().st_size for file in _files(self.corpus))
        return read_documents(self.corpus, max_document_bytes=passage_bytes(n_bytes), ledger=ledger)

    def rows(self, part: Part, places: Places) -> Iterator[Row] | None:
        """The user's rows."""
        del places
        path = self.paths.get(part.name)
        return None if path is None else read_rows(path, required=part.required, optional=part.optional)


def _files(paths: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist; check the path given by --corpus, {list_options()}")
        files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return files


def _digest(file: Path) -> str:
    try:
        return file_sha256(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); check the path and its permissions") from error
