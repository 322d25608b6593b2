"""Sources: what they are made of, which streams they have, and that nothing of them is lost on the way."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from flows.sources.base import Places
from flows.sources.book import Book
from flows.sources.catalogue import DATA_SETS
from flows.sources.demo import Demo
from flows.sources.docstrings import LIBRARIES
from flows.sources.files import Files
from flows.sources.parts import CLASSIFY, INSTRUCT
from gptcore.data import TextIndex
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
    rows = list(demo.rows(CLASSIFY, places) or ())
    assert [row["document"] for row in rows] == documents
    assert ledger.total("kept", stage="read") == len(documents)
    assert {label for label, n in Counter(row["label"] for row in rows).items() if n >= 20} == set(LIBRARIES)
    questions = list(demo.rows(INSTRUCT, places) or ())
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
    assert list(again.rows(INSTRUCT, places) or ()) == list(demo.rows(INSTRUCT, places) or ())


def test_masked_rows_do_not_name_their_library(demo: Demo, places: Places) -> None:
    named = [
        row
        for row in demo.rows(CLASSIFY, places) or ()
        if row["label"] not in ("stdlib", "torch") and row["label"] in row["text"].lower().split()
    ]
    assert named == []


def test_the_book_reads_its_four_sets_from_the_folder(shared_data: Path, tmp_path: Path) -> None:
    book, places = Book(), Places(shared_data, tmp_path / "cache")
    assert book.digests(places) == {
        name: DATA_SETS[name].sha256 for name in ("the-verdict", "tiny-shakespeare", "sms-spam", "book-instructions")
    }
    assert Counter(row["label"] for row in book.rows(CLASSIFY, places) or ()) == {"ham": 4_827, "spam": 747}
    assert len(list(book.rows(INSTRUCT, places) or ())) == 1_100
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


def test_docstrings_that_are_nearly_the_same_are_one_document_to_the_split(demo: Demo, places: Places) -> None:
    texts: dict[str, list[str]] = {}
    for document in Demo(docstrings_per_library=150).documents(places, Ledger()):
        texts.setdefault(document.source, []).append(document.text.partition("\n\n")[2])
    grouped = {source: group for source, group in texts.items() if len(group) > 1}
    assert grouped, "no two of these docstrings are alike; the test needs more of them"
    assert len(grouped) < len(texts) / 10
    index, sources = TextIndex(0.8), [source for source, group in texts.items() for _ in group]
    for number, text in enumerate(text for group in texts.values() for text in group):
        signature = index.signature(text)
        assert {sources[match.key] for match in index.find(signature)} <= {sources[number]}
        index.add(signature, key=number)


def test_one_large_text_is_read_in_passages_and_small_ones_are_not(places: Places, tmp_path: Path) -> None:
    lines = [f"line {i} of a text that is one file" for i in range(30_000)]
    large, folder = tmp_path / "large.txt", tmp_path / "texts"
    large.write_text("\n".join(lines))
    folder.mkdir()
    for i in range(400):
        (folder / f"{i:03d}.txt").write_text("\n".join(lines[i * 75 : (i + 1) * 75]))
    ledger = Ledger()
    passages = list(Files(corpus=(large,)).documents(places, ledger) or ())
    assert 150 <= len(passages) <= 250
    assert "".join(passage.text for passage in passages) == large.read_text()
    assert ledger.total("cut", stage="read", reason="read in passages") == 1
    ledger.check()
    whole = list(Files(corpus=(folder,)).documents(places, Ledger()) or ())
    assert [Path(document.source).name for document in whole] == [f"{i:03d}.txt" for i in range(400)]


def test_what_is_expected_is_near_what_there_is(shared_data: Path, demo: Demo, places: Places, tmp_path: Path) -> None:
    book = Places(shared_data, tmp_path / "cache")
    for source, where in ((Book(), book), (demo, places)):
        told = source.estimate(where)
        corpus = sum(len(document.text) for document in source.documents(where, Ledger()) or ())
        assert told.corpus_chars == pytest.approx(corpus, rel=0.3)
        for part in (CLASSIFY, INSTRUCT):
            if part == CLASSIFY and isinstance(source, Book):
                continue  # most of the messages are dropped to balance the classes
            found = [
                [text for key, text in row.items() if key not in ("document", "label")]
                for row in source.rows(part, where) or ()
            ]
            assert told.rows[part.name] == pytest.approx(len(found), rel=0.1)
            assert told.row_chars[part.name] == pytest.approx(sum(len(text) for row in found for text in row), rel=0.4)
    rows = write_rows(tmp_path / "l.jsonl", [{"text": "good", "label": "a"}, {"text": "bad", "label": "b"}])
    assert Files(labelled_rows=rows).estimate(places) == (9, {"classify": 2}, {"classify": 9}, 0.0)


def test_without_a_corpus_there_are_only_rows(places: Places, tmp_path: Path) -> None:
    labelled = write_rows(tmp_path / "l.jsonl", [{"text": "good", "label": "a"}, {"text": "bad", "label": "b"}])
    asked = write_rows(tmp_path / "i.jsonl", [{"instruction": "Add.", "input": "1 1", "output": "2"}])
    source = Files(labelled_rows=labelled, instruction_rows=asked)
    assert source.parts == ("classify", "instruct")
    assert source.documents(places, Ledger()) is None
    assert Files(labelled_rows=labelled).rows(INSTRUCT, places) is None
    assert Files(instruction_rows=asked).rows(CLASSIFY, places) is None
    assert Files(instruction_rows=asked).parts == ("instruct",)
