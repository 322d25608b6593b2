"""Cleaning: normal form, duplicates, splits, leakage.

All of it streams: of a text that went by, only its hash and signature are kept, and those in a file. Every decision is
a function of the texts and their order, and is counted in the ledger.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from gptcore.data.ledger import Ledger
from gptcore.data.near_duplicates import TextIndex
from gptcore.data.readers import Document
from gptcore.errors import ConfigError

T = TypeVar("T")
_EXCERPT = 120
_NO_CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def normalise(text: str) -> str:
    r"""NFC, ``\n`` line ends; without control characters, trailing spaces, and blank lines at both ends."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n\n")
    normal = unicodedata.normalize("NFC", lines.translate(_NO_CONTROL))
    return "\n".join(line.rstrip() for line in normal.split("\n")).strip("\n")


def prepare_documents(
    documents: Iterable[Document],
    *,
    min_chars: int,
    ledger: Ledger,
    stage: str = "clean",
    near_duplicate_threshold: float | None = 0.8,
) -> Iterator[Document]:
    """The documents in normal form, without short ones and without those seen before.

    Args:
        documents: read lazily, once.
        min_chars: shorter ones (after normalising) are dropped.
        ledger: counts in, kept and dropped (``short``, ``duplicate``, ``near duplicate``) with the unit ``documents``.
        stage: name of this stage in the ledger.
        near_duplicate_threshold: see ``TextIndex``; None keeps near duplicates.
    """
    index = TextIndex(near_duplicate_threshold)
    for number, document in enumerate(documents):
        ledger.count(stage, "in", unit="documents")
        text = normalise(document.text)
        reason = _reason_to_drop(text, index=index, number=number, min_chars=min_chars)
        ledger.count(stage, "dropped" if reason else "kept", reason=reason, unit="documents")
        if not reason:
            yield Document(text, document.source)


def prepare_rows(
    rows: Iterable[Mapping[str, str]],
    *,
    key: Sequence[str],
    content: Sequence[str] | None = None,
    ledger: Ledger,
    stage: str = "clean",
    near_duplicate_threshold: float | None = 0.8,
) -> Iterator[dict[str, str]]:
    """The rows with all values in normal form, without those whose ``key`` values were seen before.

    Args:
        rows: read lazily, once.
        key: what makes two rows the same: ``("text",)`` for labelled rows, ``("instruction", "input")`` for others.
        content: what must resemble for near duplicates, if not the key: two questions may differ in one word and still
            be about different things, as their answers show.
        ledger: counts in, kept and dropped (``empty``, ``duplicate``, ``near duplicate``) with the unit ``rows``.
        stage: name of this stage in the ledger.
        near_duplicate_threshold: see ``TextIndex``; None keeps near duplicates.
    """
    index = TextIndex(near_duplicate_threshold)
    for number, row in enumerate(rows):
        ledger.count(stage, "in")
        clean = {name: normalise(value) for name, value in row.items()}
        text = "\n".join(clean[name] for name in key).strip()
        similar = "\n".join(clean.get(name, "") for name in content) if content else None
        reason = _reason_to_drop(text, index=index, number=number, min_chars=1, similar=similar)
        reason = "empty" if reason == "short" else reason
        ledger.count(stage, "dropped" if reason else "kept", reason=reason)
        if not reason:
            yield clean


def _reason_to_drop(text: str, *, index: TextIndex, number: int, min_chars: int, similar: str | None = None) -> str:
    if len(text) < max(1, min_chars):
        return "short"
    signature = index.signature(text, similar=similar)
    matches = index.find(signature)
    if not matches:
        index.add(signature, key=number)
        return ""
    return "duplicate" if matches[0].exact else "near duplicate"


def split_by_hash(
    items: Iterable[T],
    *,
    text: Callable[[T], str],
    fractions: Mapping[str, float],
    ledger: Ledger,
    stage: str = "split",
    near_duplicate_threshold: float | None = 0.8,
    unit: str = "documents",
) -> Iterator[tuple[str, T]]:
    """(split, item) of each item: the hash of its text decides, so adding or removing others moves nothing.

    Near duplicates go where the first of them went. One that resembles texts of two splits would leak whichever way it
    went, and is dropped with the reason ``straddles splits``.

    Args:
        items: read lazily, once.
        text: the text of an item, for example ``lambda row: row["text"]``.
        fractions: share of each split, for example ``{"train": 0.85, "val": 0.05, "test": 0.1}``.
        ledger: counts what went where.
        stage: name of this stage in the ledger.
        near_duplicate_threshold: see ``TextIndex``.
        unit: what the ledger calls an item.

    Raises:
        ConfigError: a fraction is negative or they do not add up to 1.
    """
    if min(fractions.values(), default=-1.0) < 0 or abs(sum(fractions.values()) - 1.0) > 1e-9:
        raise ConfigError(f"split fractions are {dict(fractions)}; they must not be negative and must add up to 1")
    # equal texts have equal hashes, so without near duplicates nothing need be remembered
    index = None if near_duplicate_threshold is None else TextIndex(near_duplicate_threshold)
    names = list(fractions)
    for number, item in enumerate(items):
        value = text(item)
        signature = index.signature(value) if index else None
        # a text's number in the index also tells its split
        found = {names[match.key % len(names)] for match in index.find(signature)} if index and signature else set()
        if len(found) > 1:
            ledger.count(stage, "in", unit=unit)
            ledger.count(stage, "dropped", reason="straddles splits", unit=unit)
            continue
        split = found.pop() if found else _split_of(value, fractions)
        if index and signature:
            index.add(signature, key=number * len(names) + names.index(split))
        ledger.count(stage, "in", split=split, unit=unit)
        ledger.count(stage, "kept", split=split, unit=unit)
        yield split, item


def _split_of(text: str, fractions: Mapping[str, float]) -> str:
    words = " ".join(text.casefold().split())
    place = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) / 2**64
    upper = 0.0
    for name, fraction in fractions.items():
        upper += fraction
        if place < upper:
            return name
    return [name for name, fraction in fractions.items() if fraction > 0][-1]  # the sum was a rounding error below 1


class Leak(NamedTuple):
    """A test text that also stands, or nearly, in the training texts."""

    test_index: int
    train_index: int
    similarity: float
    exact: bool
    excerpt: str


@dataclass(frozen=True)
class LeakageReport:
    """What of the test texts is also in the training texts."""

    n_train: int
    """Training texts compared."""
    n_test: int
    """Test texts compared."""
    leaks: tuple[Leak, ...]
    """One for each leaking test text."""

    @property
    def n_exact(self) -> int:
        """Test texts that are in the training texts as they are."""
        return sum(leak.exact for leak in self.leaks)

    @property
    def n_near(self) -> int:
        """Test texts that are nearly in the training texts."""
        return len(self.leaks) - self.n_exact

    def summary(self) -> str:
        """One line for people."""
        found = f"{self.n_exact} exact and {self.n_near} near duplicates"
        return f"{found} of {self.n_train} training texts in {self.n_test} test texts"


def check_leakage(
    train: Iterable[str], test: Iterable[str], *, near_duplicate_threshold: float | None = 0.8
) -> LeakageReport:
    """Look for test texts that are also, or nearly, among the training texts; both are read lazily, once."""
    index, n_train = _indexed(train, near_duplicate_threshold)
    leaks, n_test = [], 0
    for number, text in enumerate(test):
        n_test += 1
        if matches := index.find(index.signature(text)):
            leaks.append(Leak(number, *matches[0], text[:_EXCERPT]))
    return LeakageReport(n_train, n_test, tuple(leaks))


def remove_leaks(
    items: Iterable[T],
    *,
    train: Iterable[str],
    text: Callable[[T], str],
    ledger: Ledger,
    split: str = "test",
    near_duplicate_threshold: float | None = 0.8,
    unit: str = "rows",
) -> Iterator[T]:
    """The items of a held-out split whose text is not, and not nearly, among the training texts.

    The ledger counts the others as dropped in the stage ``leakage`` with the reason ``leak``.
    """
    index, _ = _indexed(train, near_duplicate_threshold)
    for item in items:
        leaks = bool(index.find(index.signature(text(item))))
        ledger.count("leakage", "in", split=split, unit=unit)
        ledger.count("leakage", "dropped" if leaks else "kept", reason="leak" if leaks else "", split=split, unit=unit)
        if not leaks:
            yield item


def _indexed(texts: Iterable[str], threshold: float | None) -> tuple[TextIndex, int]:
    index, n = TextIndex(threshold), 0
    for text in texts:
        index.add(index.signature(text), key=n)
        n += 1
    return index, n
