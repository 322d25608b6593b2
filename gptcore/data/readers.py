"""Readers of people's own data: documents and rows, from files and folders, one at a time.

Documents come from txt, md, jsonl, json, csv, tsv and parquet; rows with labels or instructions from the last five.
Every fault is a ``DataError`` that names file, line and remedy; nothing is passed over silently.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gptcore.data.json_rows import json_rows, jsonl_rows
from gptcore.data.ledger import Ledger
from gptcore.data.tables import read_delimited, read_parquet
from gptcore.data.text_files import MAX_LINE_BYTES, check_file, check_surrogates, read_lines, read_pieces
from gptcore.errors import DataError

log = logging.getLogger(__name__)

TEXT_SUFFIXES = (".txt", ".md")
"""Files that are one document (a very large one: several)."""
ROW_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Files of rows."""
MAX_DOCUMENT_BYTES = 1 << 20
"""A text file above this size (1 MiB) is read as several documents, cut at line ends, so that memory stays bounded."""


class Document(NamedTuple):
    """A text and where it came from."""

    text: str
    source: str


def read_documents(
    paths: Path | Sequence[Path],
    *,
    key: str = "text",
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    ledger: Ledger | None = None,
) -> Iterator[Document]:
    """The documents of files and folders, in the order of the paths and, within a folder, of the file names.

    Args:
        paths: files or folders; folders are searched to the bottom, hidden files and folders left out.
        key: key or column of the text in files of rows.
        max_document_bytes: larger text files are read as several documents.
        ledger: counts files: kept, dropped from a folder (unknown kind, empty), cut (read as several documents).

    Raises:
        DataError: a path is missing, unreadable, empty or of an unknown kind, or a file's content is broken.
    """
    for path in [paths] if isinstance(paths, Path) else paths:
        for file in _files(path, ledger=ledger):
            if file.suffix.lower() in TEXT_SUFFIXES:
                for i, text in enumerate(read_pieces(file, max_bytes=max_document_bytes)):
                    if i == 1 and ledger is not None:
                        ledger.count("read", "cut", reason="read in passages", unit="files")
                    yield Document(text, f"{file}#{i + 1}" if i else str(file))
            else:
                for number, row in read_numbered_rows(file, required=(key,)):
                    yield Document(row[key], f"{file}:{number}")


def read_rows(
    path: Path, *, required: Sequence[str], optional: Sequence[str] = (), max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[dict[str, str]]:
    """The rows of a jsonl, json, csv, tsv or parquet file, narrowed to the named keys.

    Args:
        path: one file.
        required: keys that every row must have with a text (a whole number becomes one).
        optional: keys that a row may have; absent and null become "".
        max_line_bytes: longest line that is read.

    Raises:
        DataError: the file cannot be read, or a row lacks a key (the text names the keys found).
    """
    for _, row in read_numbered_rows(path, required=required, optional=optional, max_line_bytes=max_line_bytes):
        yield row


def read_numbered_rows(
    path: Path, *, required: Sequence[str], optional: Sequence[str] = (), max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, dict[str, str]]]:
    """``read_rows`` with each row's line number (json and parquet: row number), from 1."""
    columns = (*required, *optional)
    number = None
    for number, row in _raw_rows(path, columns=columns, max_line_bytes=max_line_bytes):
        where = row_place(path, number)
        missing = [key for key in required if key not in row]
        if missing:
            found = ", ".join(map(repr, row)) or "none"
            raise DataError(f"{where}: the key {missing[0]!r} is missing; the keys found are {found}")
        yield (
            number,
            {key: _text(row.get(key), key=key, where=where, optional=key not in required) for key in columns},
        )
    if number is None:
        raise DataError(f"{path} has no rows; give a file with content")


def row_place(path: Path, number: int) -> str:
    """Where a row stands, for a message: its line, or its number in a file that has no lines."""
    return f"{path}, {'row' if path.suffix.lower() in ('.json', '.parquet') else 'line'} {number}"


def read_labelled_tsv(path: Path) -> Iterator[dict[str, str]]:
    """Rows ``{"label", "text"}`` of a file without header whose lines are ``label<TAB>text`` (SMS Spam Collection).

    Quote marks are ordinary characters, so every line is one row.

    Raises:
        DataError: a line has no tab, no label or no text; its number is in the text.
    """
    for number, line in read_lines(path):
        label, tab, text = line.rstrip("\r\n").partition("\t")
        if not line.strip():
            continue
        if not (tab and label.strip() and text.strip()):
            raise DataError(f"{path}, line {number}: not `label<TAB>text`; found {line.strip()[:60]!r}")
        yield {"label": label.strip(), "text": text}


def _raw_rows(path: Path, *, columns: Sequence[str], max_line_bytes: int) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = path.suffix.lower()
    check_file(path)
    if suffix == ".jsonl":
        return jsonl_rows(path, max_line_bytes=max_line_bytes)
    if suffix == ".json":
        return json_rows(path)
    if suffix in (".csv", ".tsv"):
        return read_delimited(path, delimiter="," if suffix == ".csv" else "\t", max_line_bytes=max_line_bytes)
    if suffix == ".parquet":
        return read_parquet(path, columns=columns)
    raise DataError(
        f"{path}: rows are read from {', '.join(ROW_SUFFIXES)}, not from {suffix or 'a file without suffix'}"
    )


def _text(value: Any, *, key: str, where: str, optional: bool) -> str:
    if value is None and optional:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None:
        raise DataError(f"{where}: expected {key!r} to be a text, got null")
    if not isinstance(value, str):
        raise DataError(
            f"{where}: expected {key!r} to be a text, got {str(value)[:40]!r} of type {type(value).__name__}"
        )
    return check_surrogates(value, where=f"{where}, key {key!r}")


def _files(path: Path, *, ledger: Ledger | None) -> Iterator[Path]:
    known = (*TEXT_SUFFIXES, *ROW_SUFFIXES)
    if not path.is_dir():
        check_file(path)
        if path.suffix.lower() not in known:
            raise DataError(f"{path}: documents are read from {', '.join(known)}; rename or convert it")
        if ledger is not None:
            ledger.count("read", "in", unit="files")
            ledger.count("read", "kept", unit="files")
        yield path
        return
    n_used, skipped = 0, Ledger()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        if any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        reason = _unusable(file, known)
        skipped.count("read", "in", unit="files")
        skipped.count("read", "dropped" if reason else "kept", reason=reason, unit="files")
        if reason:
            log.warning("%s is left out: %s", file, reason)
            continue
        n_used += 1
        yield file
    if ledger is not None:
        ledger.merge(skipped)
    if not n_used:
        raise DataError(f"folder {path} has no file of the kinds {', '.join(known)} with content")


def _unusable(file: Path, known: Sequence[str]) -> str:
    if file.suffix.lower() not in known:
        return f"unknown kind {file.suffix or '(no suffix)'}"
    return "" if file.stat().st_size else "empty file"
