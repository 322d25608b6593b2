"""Cleaning: normal form, duplicates, splits, leakage.

All of it streams: of a text that went by, only its hash and signature are kept, and those in a file. Every decision is
a function of the texts and their order, and is counted in the ledger.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple, TypeVar

from gptcore.data.batches import Spread, in_batches, in_turn
from gptcore.data.ledger import Ledger
from gptcore.data.near_duplicates import Signature, TextIndex, text_signature
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
    spread: Spread = in_turn,
) -> Iterator[Document]:
    """The documents in normal form, without short ones and without those seen before.

    Args:
        documents: read lazily, once.
        min_chars: shorter ones (after normalising) are dropped.
        ledger: counts in, kept and dropped (``short``, ``duplicate``, ``near duplicate``) with the unit ``documents``.
        stage: name of this stage in the ledger.
        near_duplicate_threshold: see ``TextIndex``; None keeps near duplicates.
        spread: makes normal forms and signatures; what they are compared with is in this process.
    """
    index = TextIndex(near_duplicate_threshold)
    clean = partial(_clean_documents, min_chars=min_chars, near=near_duplicate_threshold is not None)
    batches = spread(clean, in_batches(documents, size=lambda document: len(document.text)))
    for number, (document, signature) in enumerate(chain.from_iterable(batches)):
        ledger.count(stage, "in", unit="documents")
        reason = "short" if signature is None else _reason_to_drop(signature, index=index, number=number)
        ledger.count(stage, "dropped" if reason else "kept", reason=reason, unit="documents")
        if not reason:
            yield document


def prepare_rows(
    rows: Iterable[Mapping[str, str]],
    *,
    key: Sequence[str],
    content: Sequence[str] | None = None,
    ledger: Ledger,
    stage: str = "clean",
    near_duplicate_threshold: float | None = 0.8,
    spread: Spread = in_turn,
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
        spread: makes normal forms and signatures; what they are compared with is in this process.
    """
    index = TextIndex(near_duplicate_threshold)
    clean = partial(_clean_rows, key=key, content=content, near=near_duplicate_threshold is not None)
    batches = spread(clean, in_batches(rows, size=lambda row: sum(map(len, row.values()))))
    for number, (row, signature) in enumerate(chain.from_iterable(batches)):
        ledger.count(stage, "in")
        reason = "empty" if signature is None else _reason_to_drop(signature, index=index, number=number)
        ledger.count(stage, "dropped" if reason else "kept", reason=reason)
        if not reason:
            yield row


def _clean_documents(
    documents: list[Document], *, min_chars: int, near: bool
) -> list[tuple[Document, Signature | None]]:
    """Each in normal form with its signature; None for what is too short to be kept."""
    clean = [Document(normalise(document.text), document.source) for document in documents]
    return [(one, text_signature(one.text, near=near) if len(one.text) >= max(1, min_chars) else None) for one in clean]


def _clean_rows(
    rows: list[Mapping[str, str]], *, key: Sequence[str], content: Sequence[str] | None, near: bool
) -> list[tuple[dict[str, str], Signature | None]]:
    """Each with its values in normal form and its signature; None where the key is empty."""
    clean = [{name: normalise(value) for name, value in row.items()} for row in rows]

    def signature(row: Mapping[str, str]) -> Signature | None:
        text = "\n".join(row[name] for name in key).strip()
        similar = "\n".join(row.get(name, "") for name in content) if content else None
        return text_signature(text, similar=similar, near=near) if text else None

    return [(row, signature(row)) for row in clean]


def _reason_to_drop(signature: Signature, *, index: TextIndex, number: int) -> str:
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
        raise ConfigError(f"expected split fractions of at least 0 that add up to 1, got {dict(fractions)}")
    # equal texts have equal hashes, so without near duplicates nothing need be remembered
    index = None if near_duplicate_threshold is None else TextIndex(near_duplicate_threshold)
    names = list(fractions)
    for number, item in enumerate(items):
        value = text(item)
        signature = index.signature(value) if index else None
        # a text's number in the index also gives its split
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


class TrainingTexts:
    """The training texts, with which held-out ones are compared."""

    def __init__(
        self, texts: Iterable[str], *, near_duplicate_threshold: float | None = 0.8, spread: Spread = in_turn
    ) -> None:
        """Read the texts, lazily and once.

        Args:
            texts: what a model is trained on.
            near_duplicate_threshold: see ``TextIndex``; None finds exact duplicates alone.
            spread: makes signatures.
        """
        self._near, self._spread = near_duplicate_threshold is not None, spread
        self._index, self._n = TextIndex(near_duplicate_threshold), 0
        for _, signature in self._sign(texts):
            self._index.add(signature, key=self._n)
            self._n += 1

    def check(self, test: Iterable[str]) -> LeakageReport:
        """Look for test texts that are also, or nearly, among the training texts; they are read lazily, once."""
        leaks, n_test = [], 0
        for number, (text, signature) in enumerate(self._sign(test)):
            n_test += 1
            if matches := self._index.find(signature):
                leaks.append(Leak(number, *matches[0], text[:_EXCERPT]))
        return LeakageReport(self._n, n_test, tuple(leaks))

    def _sign(self, texts: Iterable[str]) -> Iterator[tuple[str, Signature]]:
        signed = self._spread(partial(_signatures, near=self._near), in_batches(texts, size=len))
        return chain.from_iterable(signed)


def remove_leaks(
    items: Iterable[T], report: LeakageReport, *, ledger: Ledger, split: str = "test", unit: str = "rows"
) -> list[T]:
    """The items of a held-out split whose texts, in the same order, the report does not name.

    The ledger counts the others as dropped in the stage ``leakage`` with the reason ``leak``.
    """
    leaking = {leak.test_index for leak in report.leaks}
    ledger.count("leakage", "in", n=report.n_test, split=split, unit=unit)
    ledger.count("leakage", "dropped", n=len(leaking), reason="leak", split=split, unit=unit)
    ledger.count("leakage", "kept", n=report.n_test - len(leaking), split=split, unit=unit)
    return [item for number, item in enumerate(items) if number not in leaking]


def _signatures(texts: list[str], *, near: bool) -> list[tuple[str, Signature]]:
    return [(text, text_signature(text, near=near)) for text in texts]
