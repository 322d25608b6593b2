"""Rows out of JSON, strictly: what the standard parser lets pass (NaN, repeated keys) is refused.

A ``.jsonl`` file is read line by line; a ``.json`` file must hold one array and is read whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from gptcore.data.text_files import MAX_LINE_BYTES, read_lines, read_pieces
from gptcore.errors import DataError

MAX_JSON_BYTES = 1 << 29
"""Largest ``.json`` array that is read whole (512 MiB); a larger one should be ``.jsonl``."""


def jsonl_rows(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line; blank lines are passed over.

    Raises:
        DataError: a line is not one JSON object; its number is in the text.
    """
    for number, line in read_lines(path, max_line_bytes=max_line_bytes):
        if line.strip():
            where = f"{path}, line {number}"
            row = parse_json(line.rstrip(), where=where)  # a fault at the end is in this line, not in a second one
            if not isinstance(row, dict):
                raise DataError(f'{where}: a {_kind(row)}, not an object; write one {{"key": "value"}} per line')
            yield number, row


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, object) of the one array in the file.

    Raises:
        DataError: the file is not one array of objects.
    """
    if path.is_file() and path.stat().st_size > MAX_JSON_BYTES:
        raise DataError(f"{path} is larger than {MAX_JSON_BYTES:,} bytes; write it as .jsonl, one object per line")
    rows = parse_json("".join(read_pieces(path, max_bytes=MAX_JSON_BYTES + 1)), where=str(path))
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a {_kind(rows)}, not an array of objects; write [{{...}}, ...] or .jsonl")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: a {_kind(row)}, not an object")
        yield number, row


def parse_json(text: str, *, where: str) -> Any:
    """One JSON value.

    Raises:
        DataError: the text is broken, has NaN or Infinity, repeats a key, or is nested too deeply.
    """

    def refuse_constant(name: str) -> NoReturn:
        raise DataError(f"{where}: {name} is not JSON; write null or a number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for key, value in pairs:
            if key in row:
                raise DataError(f"{where}: the key {key!r} stands twice in one object; keep one")
            row[key] = value
        return row

    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{where}: broken JSON at {place} ({error.msg}); correct or remove it") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; nesting without end
        raise DataError(f"{where}: not usable JSON ({error})") from error


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
