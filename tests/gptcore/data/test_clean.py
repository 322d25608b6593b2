"""Cleaning: normal form, duplicates, splits that do not leak."""

from __future__ import annotations

import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcore.data import batches
from gptcore.data.clean import (
    TrainingTexts,
    normalise,
    prepare_documents,
    prepare_rows,
    remove_leaks,
    split_by_hash,
)
from gptcore.data.ledger import Ledger
from gptcore.data.near_duplicates import N_PERMUTATIONS, Signature, TextIndex, near_duplicate_groups
from gptcore.data.readers import Document
from gptcore.errors import ConfigError

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def _text(seed: int, n_words: int = 60) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(n_words))


def _varied(text: str, n_changes: int) -> str:
    words = text.split()
    for i in range(n_changes):
        words[-1 - i] = f"changed{i}"
    return " ".join(words)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


def test_normal_form() -> None:
    assert normalise("\ufeff".strip("\ufeff") + "\r\n\r\n  e\u0301 \x07a\t \r\nb\rc\x00\x1b[1m\n\n") == "  é a\nb\nc[1m"


def test_documents_are_cleaned_and_every_loss_is_counted() -> None:
    base = _text(1)
    texts = [base, base.upper() + "  \r\n", _varied(base, 3), _text(2), "short", _text(3), base]
    ledger = Ledger()
    documents = (Document(text, str(i)) for i, text in enumerate(texts))
    kept = list(prepare_documents(documents, min_chars=20, ledger=ledger))
    ledger.check()
    assert [document.source for document in kept] == ["0", "3", "5"]
    reasons = {row["reason"]: row["n"] for row in ledger.to_rows() if row["outcome"] == "dropped"}
    assert reasons == {"duplicate": 2, "near duplicate": 1, "short": 1}


def test_near_duplicates_can_be_kept() -> None:
    base, ledger = _text(1), Ledger()
    documents = [Document(text, "") for text in (base, _varied(base, 2), base)]
    kept = list(prepare_documents(documents, min_chars=1, ledger=ledger, near_duplicate_threshold=None))
    assert len(kept) == 2


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, 7.0])
def test_an_impossible_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(
        ConfigError, match=f"expected near_duplicate_threshold to lie between 0 and 1, .* got {threshold}"
    ):
        TextIndex(threshold)


def test_the_estimate_follows_the_true_similarity() -> None:
    base, index = _text(7, 400), TextIndex(0.8)
    index.add(index.signature(base), key=0)
    found = index.find(index.signature(_varied(base, 10)))  # 386 of 406 distinct shingles are shared
    assert found[0].key == 0
    assert abs(found[0].similarity - 386 / 406) < 0.1
    assert index.find(index.signature(_varied(base, 150))) == []  # 246 of 546
    assert index.find(index.signature(_text(8, 400))) == []


def test_the_garbage_collector_may_close_an_index_in_any_thread() -> None:
    """Flows run in threads; an error's traceback can hold an index until another thread collects it."""
    held = [TextIndex(0.8)]
    with ThreadPoolExecutor(1) as other:
        other.submit(held.clear).result()  # a failure to close would be an unraisable error, which fails this test
    assert not held


def test_unrelated_texts_are_never_near_duplicates() -> None:
    index = TextIndex(0.8)
    for seed in range(300):
        signature = index.signature(_text(seed, 8))
        assert index.find(signature) == []
        index.add(signature, key=seed)


def test_documents_are_consumed_a_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_ITEMS", 7)
    n_read = 0

    def texts() -> Iterator[Document]:
        nonlocal n_read
        for i in range(100):
            n_read += 1
            yield Document(_text(i), "")

    stream = prepare_documents(texts(), min_chars=1, ledger=Ledger())
    next(stream)
    assert n_read == 7
    split = split_by_hash(stream, text=lambda document: document.text, fractions=FRACTIONS, ledger=Ledger())
    for _ in range(7):
        next(split)
    assert n_read == 14


def test_rows_are_the_same_by_their_key_alone() -> None:
    rows = [
        {"text": "win a prize ", "label": "spam"},
        {"text": "Win  a prize", "label": "ham"},
        {"text": " \r\n", "label": "ham"},
        {"text": "lunch?", "label": "ham"},
    ]
    ledger = Ledger()
    kept = list(prepare_rows(rows, key=("text",), ledger=ledger))
    ledger.check()
    assert kept == [{"text": "win a prize", "label": "spam"}, {"text": "lunch?", "label": "ham"}]
    assert (ledger.total("dropped", reason="duplicate"), ledger.total("dropped", reason="empty")) == (1, 1)


def test_instructions_that_differ_in_their_input_are_kept() -> None:
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Add.", "input": "3 4", "output": "7"},
    ]
    assert list(prepare_rows(rows, key=("instruction", "input"), ledger=Ledger())) == rows


def test_questions_alike_in_their_words_are_near_duplicates_only_if_their_answers_are_too() -> None:
    def row(name: str, answer: str) -> dict[str, str]:
        question = f"Write in one sentence and in your own plain words what the function called {name} does for us."
        return {"instruction": question, "input": "", "output": answer}

    answer = _text(1, 40)
    rows = [row("mean", answer), row("median", _text(2, 40)), row("average", answer)]
    keys = {"key": ("instruction", "input"), "content": ("instruction", "input", "output")}
    ledger = Ledger()
    assert list(prepare_rows(rows, **keys, ledger=ledger)) == rows[:2]
    assert ledger.total("dropped", reason="near duplicate") == 1
    assert list(prepare_rows(rows, **keys, ledger=Ledger(), near_duplicate_threshold=None)) == rows


def test_groups_are_closed_over_likeness() -> None:
    base = _text(5, 300)
    chain = [base, _varied(base, 30), _varied(base, 60), _text(6, 300)]  # 79% of the shingles, 65% between the ends
    index = TextIndex(0.7)
    index.add(index.signature(chain[0]), key=0)
    assert index.find(index.signature(chain[2])) == []  # the ends are not alike; the one between is like both
    assert near_duplicate_groups(chain, near_duplicate_threshold=0.7) == [0, 0, 0, 3]
    ends_first = [chain[0], chain[2], chain[3], chain[1]]
    assert near_duplicate_groups(ends_first, near_duplicate_threshold=0.7) == [0, 0, 2, 0]
    assert near_duplicate_groups([base, base.upper(), "other"]) == [0, 0, 2]


def test_the_index_does_not_grow_in_memory() -> None:
    """Each text of its own takes far less than its signature of 256 bytes."""
    index = TextIndex(0.8)
    rng = np.random.default_rng(0)
    tracemalloc.start()
    for number in range(5_000):
        minhash = rng.integers(1 << 32, size=N_PERMUTATIONS, dtype=np.uint32)
        signature = Signature(number.to_bytes(32), minhash)
        assert index.find(signature) == []
        index.add(signature, key=number)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 5_000 * 20
    assert index.find(signature) == [(4_999, 1.0, True)]


def test_a_long_text_needs_no_more_memory_than_its_words() -> None:
    words = _text(9, 200_000)
    index = TextIndex(0.8)
    tracemalloc.start()
    index.signature(words)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * len(words)  # all permutations of all shingles at once would take 500 bytes for each word


FULL_DISK = """
import resource
import numpy as np
from gptcore.data.near_duplicates import N_PERMUTATIONS, Signature, TextIndex
from gptcore.errors import OutOfDiskError
import signal
index, rng = TextIndex(0.8, memory_mb=1), np.random.default_rng(0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
try:
    for number in range(50_000):
        minhash = rng.integers(1 << 32, size=N_PERMUTATIONS, dtype=np.uint32)
        index.add(Signature(number.to_bytes(32), minhash), key=number)
except OutOfDiskError as error:
    print(error)
"""


def test_a_full_folder_for_temporary_files_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the index of texts could not be written (")
    assert (
        f"free some space in the folder for temporary files, {tmp_path}, or name another one by TMPDIR" in done.stdout
    )
    assert list(tmp_path.iterdir()) == []


def _split(texts: list[str], ledger: Ledger | None = None) -> list[tuple[str, str]]:
    ledger = ledger or Ledger()
    result = list(split_by_hash(texts, text=str, fractions=FRACTIONS, ledger=ledger))
    ledger.check()
    return result


def test_splits_have_about_the_asked_shares_and_depend_on_the_text_alone() -> None:
    texts = [_text(i, 12) for i in range(500)]
    places = {text: split for split, text in _split(texts)}
    shares = Counter(places.values())
    assert abs(shares["train"] / 500 - 0.8) < 0.05
    assert min(shares["val"], shares["test"]) > 30
    random.Random(0).shuffle(texts)
    assert {text: split for split, text in _split(texts[:300])}.items() <= places.items()


def test_near_duplicates_never_straddle_splits() -> None:
    texts = [text for i in range(50) for text in (_text(i, 80), _varied(_text(i, 80), 3), _varied(_text(i, 80), 6))]
    random.Random(1).shuffle(texts)
    ledger = Ledger()
    split = _split(texts, ledger)
    held_out = [text for name, text in split if name != "train"]
    report = TrainingTexts(text for name, text in split if name == "train").check(held_out)
    assert (len(report.leaks), report.n_test) == (0, len(held_out))
    assert len(split) + ledger.total("dropped", reason="straddles splits") == len(texts)
    assert len(split) > 140


def test_a_text_between_two_splits_is_dropped() -> None:
    """The outer two share 53% of their shingles; the one between them about 70% with each."""
    first = next(text for i in range(100) if _split([text := _text(i, 200)])[0][0] == "train")
    tails = ([f"tail{i}x{j}" for j in range(60)] for i in range(200))
    start = first.split()[:140]
    other = next(text for tail in tails if _split([text := " ".join(start + tail)])[0][0] == "test")
    between = " ".join(first.split()[:170] + other.split()[170:])
    ledger = Ledger()
    split = split_by_hash(
        [first, other, between], text=str, fractions=FRACTIONS, ledger=ledger, near_duplicate_threshold=0.6
    )
    assert [name for name, _ in split] == ["train", "test"]
    ledger.check()
    assert ledger.total("dropped", reason="straddles splits") == 1


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"train": 1.5, "test": -0.5}])
def test_impossible_fractions_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected split fractions of at least 0 that add up to 1, got"):
        list(split_by_hash(["a"], text=str, fractions=fractions, ledger=Ledger()))


def test_leaks_are_found_shown_and_removed() -> None:
    train = [_text(i) for i in range(20)]
    test = [_text(100), train[4].upper(), _varied(train[9], 2), _text(101)]
    report = TrainingTexts(train).check(test)
    assert (report.n_exact, report.n_near, report.n_train, report.n_test) == (1, 1, 20, 4)
    assert [(leak.test_index, leak.train_index, leak.exact) for leak in report.leaks] == [(1, 4, True), (2, 9, False)]
    assert report.leaks[1].excerpt == test[2][:120]
    assert report.summary() == "1 exact and 1 near duplicates of 20 training texts in 4 test texts"
    ledger = Ledger()
    assert remove_leaks(test, report, ledger=ledger) == [test[0], test[3]]
    ledger.check()
    assert ledger.total("dropped", stage="leakage", split="test", reason="leak") == 2
