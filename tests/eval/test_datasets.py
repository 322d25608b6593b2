"""Rows of a file become items, or an error that names the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.datasets import read_samples
from eval.errors import EvalDataError
from eval.types import Sample


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "items.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_rows_become_samples_in_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"instruction": "Add", "input": "1 2", "output": "3"}\n\n'
        '{"id": 7, "instruction": "Greet", "output": "Hi\u2028there"}\n',
    )
    assert read_samples(path) == [
        Sample("line-1", "Add", "1 2", "3"),
        Sample("7", "Greet", "", "Hi\u2028there"),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbf{"instruction": "Add", "output": "3"}')
    assert read_samples(path)[0].instruction == "Add"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected one JSON object with the keys instruction, input, output on each line, got no rows"),
        (
            '{"instruction": "a", "output": "b"}\n{"instruction": ',
            r"items\.jsonl:2: expected one whole JSON object, got text that is not JSON",
        ),
        ("[" * 100_000, r"items\.jsonl:1: expected one whole JSON object"),
        ("[1]", r"items\.jsonl:1: expected an object with the keys .*, got a list"),
        (
            '{"instruction": "a", "answer": "b"}',
            r"items\.jsonl:1: expected .*, got no 'output' \(it has: instruction, answer\)",
        ),
        ('{"instruction": "a", "output": 3}', r"items\.jsonl:1: expected a text as 'output', got 3"),
        (
            '{"instruction": "a", "output": " "}',
            r"items\.jsonl:1: .* 'output', got an empty one; fill it in or remove the row",
        ),
        (
            '{"id": "x", "instruction": "a", "output": "b"}\n{"id": "x", "instruction": "c", "output": "d"}',
            r"items\.jsonl:2: id 'x' was already used on line 1",
        ),
        (b'{"instruction": "caf\xe9", "output": "b"}', "byte 20 is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(EvalDataError, match=message):
        read_samples(write(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvalDataError, match=r"gone\.jsonl: cannot be read \(No such file or directory\)"):
        read_samples(tmp_path / "gone.jsonl")
