"""Sources: what they are made of, which streams they have, and that nothing of them is lost on the way."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from flows.catalogue import DATA_SETS
from flows.docstrings import LIBRARIES
from flows.sources import Book, Demo, Files, Places
from gptcore.data.ledger import Ledger
from gptcore.errors import DataError


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(None, tmp_path / "cache")


@pytest.fixture(scope="module")
def demo() -> Demo:
    return Demo(docstrings_per_library=25, instruction_rows=40)


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_demo_is_the_same_documents_under_three_views(demo: Demo, places: Places) -> None:
    ledger = Ledger()
    documents = [document.source for document in demo.documents(places, ledger)]
    rows = list(demo.labelled(places))
    assert [row["document"] for row in rows] == documents
    assert {label for label, n in Counter(row["label"] for row in rows).items() if n >= 20} == set(LIBRARIES)
    questions = list(demo.instructions(places))
    assert 0 < len(questions) <= 40
    assert {row["document"] for row in questions} <= set(documents)
    assert all(row["instruction"] and row["output"] for row in questions)
    ledger.check()
    assert ledger.total("dropped", stage="read") > 0


def test_the_demo_is_named_by_the_versions_of_the_libraries_and_chosen_the_same_way_each_time(
    demo: Demo, places: Places
) -> None:
    import numpy

    assert set(demo.digests(places)) == set(LIBRARIES)
    assert demo.digests(places)["numpy"] == numpy.__version__
    again = Demo(docstrings_per_library=25, instruction_rows=40)
    assert list(again.instructions(places)) == list(demo.instructions(places))


def test_masked_rows_do_not_name_their_library(demo: Demo, places: Places) -> None:
    named = [
        row
        for row in demo.labelled(places)
        if row["label"] not in ("stdlib", "torch") and row["label"] in row["text"].lower().split()
    ]
    assert named == []


def test_the_book_reads_its_four_sets_from_the_folder(shared_data: Path, tmp_path: Path) -> None:
    book, places = Book(), Places(shared_data, tmp_path / "cache")
    assert book.digests(places) == {
        name: DATA_SETS[name].sha256 for name in ("the-verdict", "tiny-shakespeare", "sms-spam", "book-instructions")
    }
    assert Counter(row["label"] for row in book.labelled(places)) == {"ham": 4_827, "spam": 747}
    assert len(list(book.instructions(places))) == 1_100
    ledger = Ledger()
    sizes = Counter[str]()
    for document in book.documents(places, ledger):
        sizes[Path(document.source.partition("#")[0]).name] += len(document.text.encode())
    assert sizes == {"the-verdict.txt": 20_479, "tinyshakespeare.txt": 1_115_394}
    assert not (tmp_path / "cache").exists()


def test_own_files_are_named_by_their_contents(places: Places, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("first")
    (folder / "deep" / "b.md").write_text("second")
    source = Files(corpus=(folder,))
    before = source.digests(places)
    assert sorted(before) == [str(folder / "a.txt"), str(folder / "deep" / "b.md")]
    (folder / "a.txt").write_text("other")
    after = source.digests(places)
    assert [path for path in before if before[path] != after[path]] == [str(folder / "a.txt")]
    with pytest.raises(DataError, match=r"none does not exist; check the path given by --corpus, --labelled"):
        Files(corpus=(tmp_path / "none",)).digests(places)


def test_without_a_corpus_the_rows_are_the_texts(places: Places, tmp_path: Path) -> None:
    labelled = write_rows(tmp_path / "l.jsonl", [{"text": "good", "label": "a"}, {"text": "bad", "label": "b"}])
    asked = write_rows(tmp_path / "i.jsonl", [{"instruction": "Add.", "input": "1 1", "output": "2"}])
    source = Files(labelled_rows=labelled, instruction_rows=asked)
    assert source.parts == ("classify", "instruct")
    assert [document.text for document in source.documents(places, Ledger())] == ["good", "bad", "Add.\n1 1\n2"]
    assert Files(labelled_rows=labelled).instructions(places) is None
    assert Files(instruction_rows=asked).labelled(places) is None
    assert Files(instruction_rows=asked).parts == ("instruct",)
