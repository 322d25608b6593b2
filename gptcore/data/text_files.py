"""Text out of files, strictly: every fault is named with its file, place and remedy.

Only UTF-8 is read (a leading byte order mark is removed); files are read in pieces, so memory stays bounded.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gptcore.errors import DataError

MAX_LINE_BYTES = 1 << 26
"""Longest line that is read (64 MiB): more is a file of another format."""

_BOM = codecs.BOM_UTF8


def check_file(path: Path) -> None:
    """Refuse a path that is missing, not a file, unreadable or empty.

    Raises:
        DataError: names the path and the remedy.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the path of a file")
    with open_binary(path) as file:
        if not file.read(1):
            raise DataError(f"{path} is empty (0 bytes); give a file with content")


def open_binary(path: Path) -> BinaryIO:
    """The file, opened for reading bytes.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error


def read_lines(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str]]:
    """(line number from 1, line with its newline) of a UTF-8 file, one at a time.

    Raises:
        DataError: a byte is not UTF-8 or NUL (with its offset), or a line is longer than ``max_line_bytes``.
    """
    check_file(path)
    offset, number = 0, 0
    with open_binary(path) as file:
        while raw := file.readline(max_line_bytes + 1):
            number += 1
            if len(raw) > max_line_bytes:
                raise DataError(
                    f"{path}, line {number}: longer than max_line_bytes = {max_line_bytes:,}; is it one JSON text "
                    "or a binary file? Write one row per line, or raise max_line_bytes"
                )
            skip = len(_BOM) if not offset and raw.startswith(_BOM) else 0
            yield number, _decode(raw[skip:], path=path, offset=offset + skip)
            offset += len(raw)


def read_pieces(path: Path, *, max_bytes: int) -> Iterator[str]:
    """The text of a UTF-8 file in pieces of at most about ``max_bytes``, cut after a newline or, failing that, a space.

    Raises:
        DataError: a byte is not UTF-8 or NUL (with its offset).
    """
    check_file(path)
    offset, rest = 0, b""
    with open_binary(path) as file:
        while block := file.read(max_bytes - len(rest)):
            content, whole = rest + block, len(rest) + len(block) < max_bytes  # whole: the file ends here
            if not offset and content.startswith(_BOM):
                content, offset = content[len(_BOM) :], len(_BOM)
            end = len(content) if whole else _cut(content)
            if text := _decode(content[:end], path=path, offset=offset):
                yield text
            offset, rest = offset + end, content[end:]
    if rest:
        yield _decode(rest, path=path, offset=offset)


def check_surrogates(text: str, *, where: str) -> str:
    r"""``text``, unless it has half of a surrogate pair (JSON's ``\ud800``), which is no character.

    Raises:
        DataError: names ``where``.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: \\u{ord(text[error.start]):04x} is half of a surrogate pair and no character; "
            "write the text as UTF-8, or remove it"
        ) from error
    return text


def _cut(content: bytes) -> int:
    """Where to end a piece: after the last newline, else the last space, else before the last whole character."""
    for mark in (b"\n", b" "):
        if (place := content.rfind(mark)) >= 0:
            return place + 1
    end = len(content) - 1
    while end > 0 and content[end] & 0xC0 == 0x80 and len(content) - end < 4:  # a continuation byte
        end -= 1
    return end if end > 0 else len(content)


def _decode(raw: bytes, *, path: Path, offset: int) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise DataError(
            f"{path} is not UTF-8: byte 0x{byte:02x} at offset {offset + error.start:,}; convert it, for example "
            f"`iconv -f {'UTF-16' if byte in (0xFE, 0xFF) else 'LATIN1'} -t UTF-8`"
        ) from error
    if "\0" in text:
        place = offset + raw.index(b"\0")
        raise DataError(
            f"{path} has a NUL byte at offset {place:,}: it is not a text file, or UTF-16; convert it to UTF-8"
        )
    return text
