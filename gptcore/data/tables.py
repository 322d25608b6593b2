"""Rows out of csv, tsv and parquet files, in bounded memory.

A csv follows RFC 4180, https://www.rfc-editor.org/rfc/rfc4180; a tsv has no quoting at all, so that a stray quote
mark cannot swallow the rows after it. Both begin with a line of column names.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from gptcore.data.text_files import MAX_LINE_BYTES, check_file, read_lines
from gptcore.errors import DataError

_BATCH_ROWS = 1024


def read_delimited(
    path: Path, *, delimiter: str, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a csv (delimiter ``,``) or tsv (delimiter a tab).

    Raises:
        DataError: no or repeated column names, a row of another width, an unclosed quote, or a field of more than
            131,072 characters.
    """
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    lines = (line for _, line in read_lines(path, max_line_bytes=max_line_bytes))
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    names: list[str] = []
    last = 1
    try:
        for fields in reader:
            number, last = last, reader.line_num + 1
            if not names:
                names = _check_names(fields, path=path)
            elif fields:
                if len(fields) != len(names):
                    raise DataError(
                        f"{path}, line {number}: {len(fields)} fields, the first line names {len(names)} columns; "
                        "quote fields that contain the delimiter"
                    )
                yield number, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}: the row that begins in line {last} cannot be read ({error}); close its quotes, "
            "or write long texts as .jsonl or .parquet"
        ) from error


def read_parquet(path: Path, *, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row) of a parquet file: those of ``columns`` that it has.

    Raises:
        DataError: the file is not parquet, or is damaged.
    """
    import pyarrow as pa  # 27 MB that training on other files does not need
    import pyarrow.parquet as pq

    check_file(path)
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            present = [name for name in file.schema_arrow.names if name in columns]
            if not present:
                names = file.schema_arrow.names
                raise DataError(f"{path} has no column {columns[0]!r}; its columns are {', '.join(map(repr, names))}")
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=present):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}, after row {number}: not a readable parquet file ({str(error)[:200]}); write it again"
        ) from error


def _check_names(fields: list[str], *, path: Path) -> list[str]:
    names = [name.strip() for name in fields]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not any(names):
        what = f"the column {repeated[0]!r} twice" if repeated else "no column names"
        raise DataError(f"{path}, line 1: {what}; the first line must name each column once")
    return names
