"""Added data: taken in whole or not at all, named by content, and split by content alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.recipes.grown import Grown, with_added_data, without_added_data
from flows.recipes.resolve import resolve, with_own_data
from flows.sources.added import DataFolder, read_added_documents, read_added_rows
from flows.sources.added_events import send_added
from flows.sources.base import Places
from flows.sources.files import Files
from flows.sources.parts import CLASSIFY, INSTRUCT
from flows.stages.pipeline import Pipeline
from gptcore.data.ledger import Ledger
from gptcore.errors import ConfigError, DataError

Write = Callable[[str, str], Path]


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "data")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(name: str, text: str) -> Path:
        path = tmp_path / "given" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return file


def rows(n: int, start: int = 0) -> str:
    return "".join(
        json.dumps({"instruction": f"Add {i}.", "output": f"It is {i}."}) + "\n" for i in range(start, start + n)
    )


def test_files_are_known_by_their_columns_and_copied_by_content(folder: DataFolder, write: Write) -> None:
    given = [write("q.jsonl", rows(3)), write("l.csv", "text,label\ngood,yes\nbad,no\n"), write("t.md", "Some text.")]
    taken = folder.add(given)
    assert [(e.kind, e.n_items, e.suffix) for e in taken.new] == [
        ("instructions", 3, ".jsonl"),
        ("labelled", 2, ".csv"),
        ("corpus", 1, ".md"),
    ]
    given[0].write_text("changed afterwards")
    assert [row["output"] for row in read_added_rows(folder, taken.new[:1])] == ["It is 0.", "It is 1.", "It is 2."]
    assert folder.freeze() == taken.digest
    assert folder.snapshot(taken.digest) == folder.entries() == taken.new


def test_the_same_content_is_added_once_and_the_order_of_addition_is_no_input(
    folder: DataFolder, write: Write, tmp_path: Path
) -> None:
    a, b = write("a.jsonl", rows(3)), write("b.jsonl", rows(4))
    folder.add([a])
    digest = folder.add([b]).digest
    assert folder.add([write("c.jsonl", rows(3))]).known == (tmp_path / "given/c.jsonl",)
    assert DataFolder(tmp_path / "other").add([b, a]).digest == digest


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.jsonl", rows(2) + '{"instruction": "x"}\n', "line 3: the key 'output' is missing"),
        ("q.jsonl", rows(2) + "{broken\n", "line 3"),
        ("q.csv", "a,b\n1,2\n", "its first row has none of: text and label; instruction and output; text"),
        ("q.docx", "text", "data is read from .txt"),
        ("q.txt", "", "empty"),
    ],
)
def test_bad_input_is_refused_and_nothing_of_the_command_is_kept(
    folder: DataFolder, write: Write, name: str, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        folder.add([write("good.jsonl", rows(3)), write(name, text)])
    assert folder.entries() == ()
    assert not (folder.root / "objects").exists()


def test_a_missing_path_and_a_kind_that_does_not_fit_are_refused(folder: DataFolder, write: Write) -> None:
    with pytest.raises(DataError, match="does not exist"):
        folder.add([folder.root / "none.txt"])
    with pytest.raises(DataError, match="the key 'text' is missing"):
        folder.add([write("q.jsonl", rows(1))], kind="labelled")
    with pytest.raises(DataError, match="is a text without columns, and instructions needs instruction, output"):
        folder.add([write("t.txt", "text")], kind="instructions")


def test_a_folder_is_added_file_by_file_and_what_cannot_be_read_is_told(
    folder: DataFolder, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write("a.txt", "One text."), write("b.txt", "Another text."), write("c.bin", "x")
    assert len(folder.add([write("a.txt", "One text.").parent]).new) == 2
    assert "c.bin is left out" in caplog.text


def test_a_file_that_was_changed_in_the_store_is_refused(folder: DataFolder, write: Write) -> None:
    [entry] = folder.add([write("q.jsonl", rows(3))]).new
    path = folder.path(entry)
    path.chmod(0o644)
    path.write_text(rows(4))
    with pytest.raises(DataError, match="was changed: its sha256 is"):
        list(read_added_rows(folder, [entry]))


def test_removed_data_is_out_of_use_but_stays_for_the_chains_made_from_it(folder: DataFolder, write: Write) -> None:
    taken = folder.add([write("q.jsonl", rows(3)), write("t.txt", "A text.")])
    with pytest.raises(DataError, match="2 added files have a sha256 that begins with ''"):
        folder.remove("")
    gone = folder.remove(taken.new[0].sha256[:10])
    assert [entry.kind for entry in folder.entries()] == ["corpus"]
    assert gone in folder.snapshot(taken.digest)
    assert len(list(read_added_rows(folder, [gone]))) == 3
    assert folder.add([write("q.jsonl", rows(3))]).digest == taken.digest
    with pytest.raises(DataError, match="the added data of this chain is not in this installation"):
        folder.snapshot("0" * 16)


def test_passages_keep_their_identity_whatever_is_added_and_wherever_the_folder_is(
    folder: DataFolder, write: Write, tmp_path: Path
) -> None:
    text = write("t.txt", "".join(f"Line {i} of a text that is read in passages.\n" for i in range(600)))
    before = list(read_added_documents(folder, folder.add([text]).new))
    folder.add([write("u.txt", "word\n" * 400_000)])
    assert len(before) > 1
    assert list(read_added_documents(folder, folder.entries()))[: len(before)] == before
    moved = DataFolder(tmp_path / "moved")
    assert list(read_added_documents(moved, moved.add([text]).new)) == before


def test_a_chain_with_added_data_reads_both_and_has_a_key_of_its_own(
    folder: DataFolder, write: Write, tmp_path: Path
) -> None:
    base = with_own_data(resolve("tiny"), rows={"instruct": write("own.jsonl", rows(5))})
    assert with_added_data(base, folder, snapshot=folder.freeze()) == base
    folder.add([write("q.jsonl", rows(3, start=10)), write("l.csv", "text,label\ngood,yes\nbad,no\n")])
    grown = with_added_data(base, folder, snapshot=folder.freeze())
    source, places = grown.prepare.source, Places(None, tmp_path / "cache", folder.root)
    assert isinstance(source, Grown)
    assert source.parts == ("classify", "instruct")
    assert source.documents(places, Ledger()) is None
    assert [row["output"] for row in source.rows(INSTRUCT, places) or ()] == [
        f"It is {i}." for i in (0, 1, 2, 3, 4, 10, 11, 12)
    ]
    assert len(list(source.rows(CLASSIFY, places) or ())) == 2
    assert source.estimate(places).rows == {"classify": 2, "instruct": 8}
    assert set(source.digests(places)) > {str(tmp_path / "given/own.jsonl")}
    assert without_added_data(source) == base.prepare.source
    assert Pipeline.from_dict(grown.to_dict()) == grown


def test_added_data_alone_is_split_as_own_data(folder: DataFolder, write: Write) -> None:
    demo = resolve("demo")
    with pytest.raises(ConfigError, match="no data was added yet"):
        with_added_data(demo, folder, snapshot=None, alone=True)
    folder.add([write("t.txt", "A text.")])
    alone = with_added_data(demo, folder, snapshot=folder.freeze(), alone=True)
    assert without_added_data(alone.prepare.source) is None
    own = with_own_data(demo, corpus=[Path("t.txt")])
    assert isinstance(own.prepare.source, Files)
    assert alone.prepare.corpus_split == own.prepare.corpus_split != demo.prepare.corpus_split


def test_without_a_server_the_event_is_said_to_be_left_out(
    folder: DataFolder, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = folder.add([write("q.jsonl", rows(3))])
    assert send_added(taken).startswith("no Prefect server is configured")
