"""Exact and near duplicates without keeping the texts: one sha256 and one MinHash signature each.

Two texts are near duplicates when the Jaccard similarity of their sets of five-word shingles, estimated from 64
permutations (standard error about 0.05), reaches a threshold. Broder 1997, "On the resemblance and containment of
documents"; candidates come from datasketch's locality-sensitive hashing, https://ekzhu.com/datasketch/lsh.html, and are
compared again signature by signature. A text costs about 2 kB of memory, however long it is.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptcore.errors import ConfigError

if TYPE_CHECKING:
    from datasketch import MinHash

N_PERMUTATIONS = 64
_SHINGLE_WORDS = 5
_MULTIPLIERS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1], dtype=np.uint32)


class Match(NamedTuple):
    """An earlier text that equals this one (similarity 1.0, ``exact``) or nearly does."""

    key: int
    similarity: float
    exact: bool


class Signature(NamedTuple):
    """What is kept of a text: sha256 of its words, and its MinHash (None: only exact duplicates are looked for)."""

    exact: bytes
    minhash: MinHash | None


class TextIndex:
    """Texts seen so far, by number; letter case and white space do not count.

    Args:
        near_duplicate_threshold: similarity from which two texts count as the same; None: only exact duplicates.

    Raises:
        ConfigError: the threshold is not between 0 and 1.
    """

    def __init__(self, near_duplicate_threshold: float | None = 0.8) -> None:
        from datasketch import MinHash, MinHashLSH  # half a second and 30 MB that only preparation needs

        threshold = near_duplicate_threshold
        if threshold is not None and not 0.0 < threshold < 1.0:
            raise ConfigError(
                f"near_duplicate_threshold is {threshold}; it must lie between 0 and 1, "
                "or be none to drop only exact duplicates"
            )
        self._threshold = threshold
        self._exact: dict[bytes, int] = {}
        self._signatures: dict[int, NDArray[np.uint32]] = {}
        self._blank = MinHash(num_perm=N_PERMUTATIONS, hashfunc=int)
        self._lsh = (
            MinHashLSH(threshold=threshold, num_perm=N_PERMUTATIONS, weights=(0.2, 0.8))  # candidates are verified
            if threshold is not None
            else None
        )

    def signature(self, text: str) -> Signature:
        """What the index keeps of a text."""
        words = text.casefold().split()
        exact = hashlib.sha256(" ".join(words).encode()).digest()
        if self._lsh is None or not words:
            return Signature(exact, None)
        minhash = self._blank.copy()
        minhash.update_batch(_shingles(words).tolist())
        return Signature(exact, minhash)

    def find(self, signature: Signature) -> list[Match]:
        """The earlier text that equals this one or else all that nearly do, the most similar first."""
        if signature.exact in self._exact:
            return [Match(self._exact[signature.exact], 1.0, True)]
        if self._lsh is None or signature.minhash is None or self._threshold is None:
            return []
        candidates = sorted(self._lsh.query(signature.minhash))
        if not candidates:
            return []
        known = np.stack([self._signatures[key] for key in candidates])  # (n, N_PERMUTATIONS)
        similarities = (known == signature.minhash.hashvalues).mean(axis=1)
        pairs = zip(candidates, similarities, strict=True)
        found = [Match(key, float(s), False) for key, s in pairs if s >= self._threshold]
        return sorted(found, key=lambda match: (-match.similarity, match.key))

    def add(self, signature: Signature, *, key: int) -> None:
        """Remember a text under a number; one that equals an earlier text changes nothing."""
        if signature.exact in self._exact:
            return
        self._exact[signature.exact] = key
        if self._lsh is not None and signature.minhash is not None:
            self._lsh.insert(key, signature.minhash)
            self._signatures[key] = signature.minhash.hashvalues


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
