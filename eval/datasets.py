"""Rows of a JSON Lines file -> evaluation items."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from eval.errors import EvalDataError
from eval.types import Sample

FIELDS = ("instruction", "input", "output")
"""What a row holds; ``input`` may be missing, ``id`` may be given."""
_KEYS: Final = ", ".join(FIELDS)


def read_samples(path: Path) -> list[Sample]:
    """The items of a JSON Lines file with the keys instruction, input (optional), output and id (optional).

    A row without an id is named after its line (``line-1``). Blank lines are skipped.

    Raises:
        EvalDataError: the file cannot be read or holds no row; a line is not JSON; a key is missing, empty or no text;
            an id comes twice. The message names the file and the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise EvalDataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise EvalDataError(
            f"{path}: byte {error.start} is not UTF-8; convert the file, for example with iconv -t utf-8"
        ) from error
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    # Split at newlines only: str.splitlines would also cut inside a JSON string that holds U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        sample = _parse_sample(
            _parse_row(line, where=f"{path}:{number}"), where=f"{path}:{number}", default_id=f"line-{number}"
        )
        if sample.id in seen:
            raise EvalDataError(
                f"{path}:{number}: id {sample.id!r} was already used on line {seen[sample.id]}; ids must be unique"
            )
        seen[sample.id] = number
        samples.append(sample)
    if not samples:
        raise EvalDataError(f"{path}: expected one JSON object with the keys {_KEYS} on each line, got no rows")
    return samples


def _parse_row(line: str, *, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EvalDataError(f"{where}: expected one whole JSON object, got text that is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise EvalDataError(f"{where}: expected an object with the keys {_KEYS}, got a {type(row).__name__}")
    return row


def _parse_sample(row: Mapping[str, Any], *, where: str, default_id: str) -> Sample:
    for name in ("instruction", "output"):
        if name not in row:
            raise EvalDataError(
                f"{where}: expected the keys {_KEYS}, got no {name!r} (it has: {', '.join(row) or 'none'})"
            )
    for name in FIELDS:
        if not isinstance(row.get(name, ""), str):
            raise EvalDataError(f"{where}: expected a text as {name!r}, got {row[name]!r}")
    for name in ("instruction", "output"):
        if not row[name].strip():
            raise EvalDataError(f"{where}: expected a text as {name!r}, got an empty one; fill it in or remove the row")
    return Sample(
        id=str(row.get("id", default_id)),
        instruction=row["instruction"],
        input=row.get("input", ""),
        reference=row["output"],
    )
