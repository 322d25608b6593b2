"""Reading people's own files: every kind, and every way in which one can be broken."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcore.data.ledger import Ledger
from gptcore.data.readers import Document, read_documents, read_labelled_tsv, read_rows
from gptcore.data.text_files import read_lines, read_pieces
from gptcore.errors import DataError

ROWS = [{"text": 'say "hi", you', "label": "a"}, {"text": "two\nlines é", "label": "b"}]


def _jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")


def _json(path: Path) -> None:
    path.write_text(json.dumps(ROWS))


def _csv(path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(path, index=False)


def _parquet(path: Path) -> None:
    pd.DataFrame(ROWS).to_parquet(path)


WRITERS: dict[str, Callable[[Path], None]] = {"jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet}


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_of_every_kind_are_the_same(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    WRITERS[kind](path)
    assert list(read_rows(path, required=("text", "label"))) == ROWS
    assert [document.text for document in read_documents(path)] == [row["text"] for row in ROWS]
    with pytest.raises(DataError, match=r"output.*(keys found are|columns are).*'text'|key 'output' is missing"):
        list(read_rows(path, required=("text", "output")))


def test_a_tsv_has_no_quoting(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('label\ttext\nham\t"unclosed quote\nspam\tit"s 5" wide\n')
    assert [row["text"] for row in read_rows(path, required=("text", "label"))] == ['"unclosed quote', 'it"s 5" wide']


def test_optional_keys_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\ufeff{"text": "a", "label": 3, "more": []}\n\n{"text": "b", "label": "x", "note": null}\r\n')
    rows = list(read_rows(path, required=("text", "label"), optional=("note",)))
    assert rows == [{"text": "a", "label": "3", "note": ""}, {"text": "b", "label": "x", "note": ""}]


def test_folders_are_read_in_order_and_the_rest_is_counted(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.txt").write_text("hidden")
    (tmp_path / "b" / "two.md").write_text("# two")
    (tmp_path / "a.txt").write_text("one")
    _jsonl(tmp_path / "c.jsonl")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.txt").touch()
    ledger = Ledger()
    found = list(read_documents([tmp_path], ledger=ledger))
    assert [document.text for document in found] == ["one", "# two", ROWS[0]["text"], ROWS[1]["text"]]
    assert found[2] == Document(ROWS[0]["text"], f"{tmp_path / 'c.jsonl'}:1")
    ledger.check()
    assert [ledger.total(outcome) for outcome in ("in", "kept", "dropped")] == [5, 3, 2]
    assert ledger.total("dropped", reason="unknown kind .png") == 1


def test_a_large_text_is_read_as_pieces_that_join_again(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    text = "\n".join(f"line {i} — é" for i in range(3000))
    path.write_text("\ufeff" + text, encoding="utf-8")
    pieces = [document.text for document in read_documents(path, max_document_bytes=1000)]
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= 1000 and piece.endswith("\n") for piece in pieces[:-1])


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1),
    size=st.integers(8, 40),
)
def test_any_text_in_pieces_of_any_size_joins_again(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces.txt"
    path.write_bytes(text.encode())
    assert "".join(read_pieces(path, max_bytes=size)) == text.removeprefix("\ufeff")


def test_documents_are_read_lazily_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for i in range(3_000):
            file.write(json.dumps({"text": f"document {i} " + "x" * 4000}) + "\n")
    tracemalloc.start()
    n = sum(1 for _ in read_documents(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (n, path.stat().st_size > 10_000_000) == (3_000, True)
    assert peak < 1_000_000
    stream = read_documents([path, tmp_path / "missing.txt"])
    assert isinstance(stream, Iterator)
    assert next(stream).text.startswith("document 0")


BROKEN = {
    "is empty": ("x.jsonl", b""),
    r"is not UTF-8: byte 0xe9 at offset 13; .*iconv -f LATIN1 -t UTF-8": ("x.jsonl", b'{"text": "caf\xe9"}\n'),
    r"is not UTF-8: byte 0xff at offset 0; .*iconv -f UTF-16": ("x.jsonl", "hé".encode("utf-16")),
    r"is not UTF-8: byte 0x80 at offset 17;": ("x.jsonl", b'\xef\xbb\xbf{"text": "a"}\n\x80'),
    r"x\.jsonl, line 2: broken JSON at column 10": ("x.jsonl", b'{"text": "a"}\n{"text": }\n'),
    r"x\.jsonl, line 1: broken JSON at column 23 \(Expecting value\)": (
        "x.jsonl",
        b'{"text": "a", "label": \n{"text": "b"}\n',
    ),
    r"x\.jsonl, line 1: broken JSON at column": ("x.jsonl", b'{"text": "cut off'),
    r"line 1: NaN is not JSON; write null or a number": ("x.jsonl", b'{"text": "a", "score": NaN}\n'),
    r"line 1: -Infinity is not JSON": ("x.jsonl", b'{"text": "a", "score": -Infinity}\n'),
    r"line 1: the key 'text' stands twice": ("x.jsonl", b'{"text": "a", "text": "b"}\n'),
    r"line 1: a array, not an object|line 1: a string, not an object": ("x.jsonl", b'"text"\n'),
    r"line 1: the key 'text' is missing; the keys found are 'txt', 'id'": ("x.jsonl", b'{"txt": "a", "id": 1}\n'),
    r"line 1: expected 'text' to be a text, got '\[1\]' of type list": ("x.jsonl", b'{"text": [1]}\n'),
    r"line 1: expected 'text' to be a text, got null": ("x.jsonl", b'{"text": null}\n'),
    r"line 1, key 'text': \\ud800 is half of a surrogate pair": ("x.jsonl", b'{"text": "a\\ud800"}\n'),
    r"line 1: not usable JSON": ("x.jsonl", b'{"text": ' + b"[" * 200_000 + b"}\n"),
    r"line 1: not usable JSON \(Exceeds the limit": ("x.jsonl", b'{"text": ' + b"1" * 5000 + b"}\n"),
    r"has a NUL byte at offset 11": ("x.jsonl", b'{"text": "a\x00"}\n'),
    r"has no rows": ("x.jsonl", b"\n \n"),
    r"x\.json holds a object, not an array of objects": ("x.json", b'{"text": "a"}'),
    r"x\.json, row 2: a number, not an object": ("x.json", b'[{"text": "a"}, 3]'),
    r"x\.json: broken JSON at line 2, column 1": ("x.json", b'[{"text": "a"},\n'),
    r"x\.csv, line 3: 3 fields, the first line names 2 columns": ("x.csv", b"text,label\na,b\nc,d,e\n"),
    r"x\.csv: the row that begins in line 2 cannot be read \(unexpected end of data\)": (
        "x.csv",
        b'text,label\n"a,b\nc,d\n',
    ),
    r"x\.csv: the row that begins in line 2 cannot be read \(field larger": ("x.csv", b"text\n" + b"a" * 140_000),
    r"x\.csv, line 1: the column 'text' twice": ("x.csv", b"text,text\na,b\n"),
    r"x\.csv, line 2: the key 'text' is missing; the keys found are 'a', 'b'": ("x.csv", b"a,b\n1,2\n"),
    r"x\.parquet, after row 0: not a readable parquet file": ("x.parquet", b"PAR1 this is not parquet PAR1"),
    r"x\.pdf: documents are read from \.txt, \.md": ("x.pdf", b"%PDF"),
    r"x\.txt is not UTF-8: byte 0xe9 at offset 3": ("x.txt", b"caf\xe9"),
    r"x\.txt has a NUL byte at offset 1": ("x.txt", b"a\x00b"),
}


@pytest.mark.parametrize(("message", "file"), BROKEN.items())
def test_a_broken_file_is_refused_with_its_place(tmp_path: Path, message: str, file: tuple[str, bytes]) -> None:
    name, content = file
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        list(read_documents(tmp_path / name))
    assert str(tmp_path / name) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (lambda p: list(read_documents(p)), lambda p: list(read_rows(p, required=("text",)))):
        with pytest.raises(DataError, match=r"nothing\.jsonl does not exist; check the path"):
            read(tmp_path / "nothing.jsonl")


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a file; give the path of a file"):
        list(read_rows(tmp_path, required=("text",)))


def test_rows_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.xml").write_text("<a/>")
    with pytest.raises(DataError, match=r"rows are read from \.jsonl, \.json, \.csv, \.tsv, \.parquet, not from \.xml"):
        list(read_rows(tmp_path / "rows.xml", required=("text",)))


def test_a_folder_without_a_usable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"has no file of the kinds \.txt, \.md"):
        list(read_documents(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\); check the path and its permissions"):
        list(read_documents(path))


def test_a_file_the_system_refuses_to_open_is_told(tmp_path: Path) -> None:
    """A loop of links is refused to everybody, root included."""
    (tmp_path / "a.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"a\.txt (does not exist|cannot be read)"):
        list(read_documents(tmp_path / "a.txt"))


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "one-line.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "' + b"x" * 40000 + b'"}\n')
    with pytest.raises(DataError, match="line 2: longer than max_line_bytes = 1,000"):
        list(read_rows(path, required=("text",), max_line_bytes=1000))
    assert [number for number, _ in read_lines(path)] == [1, 2]


def test_a_parquet_without_the_column_names_its_columns(tmp_path: Path) -> None:
    pd.DataFrame({"body": ["a"], "id": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="has no column 'text'; its columns are 'body', 'id'"):
        list(read_documents(tmp_path / "x.parquet"))


def test_every_sms_is_read_in_spite_of_stray_quotes(shared_data: Path) -> None:
    rows = list(read_labelled_tsv(shared_data / "SMSSpamCollection"))
    labels = [row["label"] for row in rows]
    assert (len(rows), labels.count("ham"), labels.count("spam")) == (5574, 4827, 747)
    assert sum('"' in row["text"] for row in rows) > 100


def test_a_labelled_line_without_tab_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "sms"
    path.write_text('ham\ta "quote\nspam\tb\r\nham no tab\n')
    with pytest.raises(DataError, match=r"sms, line 3: not `label<TAB>text`; found 'ham no tab'"):
        list(read_labelled_tsv(path))
    path.write_text('ham\ta "quote\nspam\tb\tc\r\n')
    assert list(read_labelled_tsv(path)) == [{"label": "ham", "text": 'a "quote'}, {"label": "spam", "text": "b\tc"}]
