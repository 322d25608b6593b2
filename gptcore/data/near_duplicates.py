"""Exact and near duplicates without keeping the texts: one sha256 and one MinHash signature each.

Two texts are near duplicates when the Jaccard similarity of their sets of five-word shingles, estimated from 64
permutations (standard error about 0.05), reaches a threshold. Broder 1997, "On the resemblance and containment of
documents". Signatures and the choice of bands are datasketch's, https://ekzhu.com/datasketch/lsh.html; candidates share
a band and are compared again signature by signature. The index is a temporary file (SQLite's), so that memory does not
grow with the number of texts: each takes about 700 bytes of disk, however long it is.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import weakref
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptcore.errors import ConfigError, OutOfDiskError

if TYPE_CHECKING:
    from datasketch import MinHash

N_PERMUTATIONS = 64
_SHINGLE_WORDS = 5
_SHINGLES_AT_ONCE = 4096
_MULTIPLIERS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1], dtype=np.uint32)
_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE exact (digest BLOB PRIMARY KEY, key INTEGER) WITHOUT ROWID;
CREATE TABLE bands (hash INTEGER, key INTEGER, PRIMARY KEY (hash, key)) WITHOUT ROWID;
CREATE TABLE texts (key INTEGER PRIMARY KEY, minhash BLOB);
"""


class Match(NamedTuple):
    """An earlier text that equals this one (similarity 1.0, ``exact``) or nearly does."""

    key: int
    similarity: float
    exact: bool


class Signature(NamedTuple):
    """What is kept of a text: sha256 of its words, and its MinHash (None: only exact duplicates are looked for)."""

    exact: bytes
    minhash: NDArray[np.uint32] | None
    """(N_PERMUTATIONS,)"""


def text_signature(text: str, *, similar: str | None = None, near: bool = True) -> Signature:
    """What an index keeps of a text; it depends on nothing else, so another process may make it.

    Args:
        text: what an exact duplicate equals.
        similar: what a near duplicate resembles, if that is not the same.
        near: whether near duplicates are looked for.
    """
    words = text.casefold().split()
    exact = hashlib.sha256(" ".join(words).encode()).digest()
    if similar is not None:
        words = similar.casefold().split()
    if not near or not words:
        return Signature(exact, None)
    minhash, shingles = _blank().copy(), _shingles(words)
    for start in range(0, len(shingles), _SHINGLES_AT_ONCE):  # each shingle takes a kilobyte meanwhile
        minhash.update_batch(shingles[start : start + _SHINGLES_AT_ONCE].tolist())
    return Signature(exact, minhash.hashvalues.astype(np.uint32))


class TextIndex:
    """Texts seen so far, by number; letter case and white space do not count.

    Args:
        near_duplicate_threshold: similarity from which two texts count as the same; None: only exact duplicates.
        memory_mb: how much of the index may be in memory at a time.

    Raises:
        ConfigError: the threshold is not between 0 and 1.
    """

    def __init__(self, near_duplicate_threshold: float | None = 0.8, *, memory_mb: int = 32) -> None:
        from datasketch import MinHashLSH  # half a second and 30 MB that only preparation needs

        threshold = near_duplicate_threshold
        if threshold is not None and not 0.0 < threshold < 1.0:
            raise ConfigError(
                "expected near_duplicate_threshold to lie between 0 and 1, or none to drop only exact duplicates, "
                f"got {threshold}"
            )
        self._threshold = threshold
        self._n_bands = self._rows = 0
        if threshold is not None:
            # weights: missing a pair costs more than comparing one for nothing
            bands = MinHashLSH(threshold=threshold, num_perm=N_PERMUTATIONS, weights=(0.2, 0.8))
            self._n_bands, self._rows = bands.b, bands.r
        # A file of its own that vanishes with the connection, which the garbage collector may close in any thread.
        self._file = sqlite3.connect("", check_same_thread=False)
        weakref.finalize(self, self._file.close)
        self._file.executescript(_TABLES)
        self._file.execute(f"PRAGMA cache_size = {-1024 * memory_mb}")

    def signature(self, text: str, *, similar: str | None = None) -> Signature:
        """What the index keeps of a text: ``text_signature`` at its threshold."""
        return text_signature(text, similar=similar, near=self._threshold is not None)

    def find(self, signature: Signature) -> list[Match]:
        """The earlier text that equals this one or else all that nearly do, the most similar first."""
        equal = self._file.execute("SELECT key FROM exact WHERE digest = ?", (signature.exact,)).fetchone()
        if equal is not None:
            return [Match(equal[0], 1.0, True)]
        if signature.minhash is None or self._threshold is None:
            return []
        marks = ",".join("?" * self._n_bands)
        query = f"SELECT key, minhash FROM texts WHERE key IN (SELECT key FROM bands WHERE hash IN ({marks}))"
        candidates = self._file.execute(query, list(self._bands(signature.minhash))).fetchall()
        if not candidates:
            return []
        known = np.frombuffer(b"".join(blob for _, blob in candidates), dtype=np.uint32).reshape(-1, N_PERMUTATIONS)
        similarities = (known == signature.minhash).mean(axis=1)  # (n candidates,)
        pairs = zip((key for key, _ in candidates), similarities, strict=True)
        found = [Match(key, float(s), False) for key, s in pairs if s >= self._threshold]
        return sorted(found, key=lambda match: (-match.similarity, match.key))

    def add(self, signature: Signature, *, key: int) -> None:
        """Remember a text under a number; one that equals an earlier text changes nothing.

        Raises:
            OutOfDiskError: the folder for temporary files is full.
        """
        with _disk_errors():
            new = self._file.execute("INSERT OR IGNORE INTO exact VALUES (?, ?)", (signature.exact, key)).rowcount
            if new and signature.minhash is not None:
                self._file.execute("INSERT INTO texts VALUES (?, ?)", (key, signature.minhash.tobytes()))
                bands = ((band, key) for band in self._bands(signature.minhash))
                self._file.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", bands)

    def _bands(self, minhash: NDArray[np.uint32]) -> Iterator[int]:
        """One 64-bit hash for each band of the signature."""
        for i in range(self._n_bands):
            band = i.to_bytes(2) + minhash[i * self._rows : (i + 1) * self._rows].tobytes()
            yield int.from_bytes(hashlib.blake2b(band, digest_size=8).digest(), signed=True)


def near_duplicate_groups(texts: Iterable[str], *, near_duplicate_threshold: float = 0.8) -> list[int]:
    """For each text the number of the first text of its group: texts that equal or resemble one another, and on.

    Groups are closed: what resembles two groups joins them into one.
    """
    index, first = TextIndex(near_duplicate_threshold), list[int]()

    def leader(number: int) -> int:
        while first[number] != number:
            number = first[number]
        return number

    for number, text in enumerate(texts):
        signature = index.signature(text)
        leaders = {leader(match.key) for match in index.find(signature)}
        first.append(min(leaders, default=number))
        for other in leaders:
            first[other] = first[number]
        index.add(signature, key=number)
    return [leader(number) for number in range(len(first))]


@cache
def _blank() -> MinHash:
    from datasketch import MinHash

    return MinHash(num_perm=N_PERMUTATIONS, hashfunc=int)


def _shingles(words: list[str]) -> NDArray[np.uint32]:
    """Distinct 32-bit hashes of all runs of five words (of the whole text, if it is shorter)."""
    hashes = np.array([zlib.crc32(word.encode()) for word in words], dtype=np.uint32)
    size = min(_SHINGLE_WORDS, len(hashes))
    windows = np.lib.stride_tricks.sliding_window_view(hashes, size)  # (n - size + 1, size)
    mixed: NDArray[np.uint32] = np.zeros(len(windows), dtype=np.uint32)
    for i in range(size):
        mixed = (mixed ^ windows[:, i]) * _MULTIPLIERS[i]
        mixed ^= mixed >> np.uint32(15)
    return np.unique(mixed)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        folder = os.environ.get("TMPDIR") or "/var/tmp"
        raise OutOfDiskError(
            f"the index of texts could not be written ({error}); free some space in the folder for temporary files, "
            f"{folder}, or name another one by TMPDIR, and run the same command again"
        ) from error
