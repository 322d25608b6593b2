"""PaddedRows: numbered rows of tokens, batched by similar length.

Bucketing saves padding: rows are permuted by seed, sorted by length within chunks of 50 batches, and the batches
are shuffled again. The order is a pure function of (seed, epoch, batch size), so a resumed run continues it.

Shapes: B rows, T = the longest row of the batch, N = all its positions, without padding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptcore.batch import IGNORED, Batch
from gptcore.data.base import STILL, Draw, TextSize
from gptcore.data.ledger import Ledger
from gptcore.errors import DataError
from gptcore.tokenizer import Tokenizer

Ids = NDArray[np.int64]
Arrange = Callable[[Sequence[Ids], int], Tensor]
"""Rows of token ids or labels, and what fills them up, to one tensor."""
_CHUNK_BATCHES = 50


class RowTargets(Protocol):
    """What the rows are trained for."""

    def targets(self, indices: Ids, *, arrange: Arrange) -> dict[str, Tensor]:
        """Targets of the named rows (B,); ``arrange`` brings what has positions into the form of the tokens."""
        ...

    def content(self) -> bytes:
        """All targets as bytes, for the fingerprint."""
        ...


class TokenLabels:
    """One label per position, ``IGNORED`` where there is no target: ``labels`` (B, T) int64."""

    def __init__(self, labels: Sequence[Ids]) -> None:
        self._labels = labels

    def targets(self, indices: Ids, *, arrange: Arrange) -> dict[str, Tensor]:
        """``labels`` (B, T) int64, or (1, N)."""
        return {"labels": arrange([self._labels[i] for i in indices], IGNORED)}

    def content(self) -> bytes:
        """All labels, one row after the other."""
        return np.concatenate(self._labels).tobytes()


class RowClasses:
    """One class per row: ``classes`` (B,) int64."""

    def __init__(self, classes: Ids) -> None:
        self._classes = classes

    def targets(self, indices: Ids, *, arrange: Arrange) -> dict[str, Tensor]:
        """``classes`` (B,) int64."""
        del arrange
        return {"classes": torch.from_numpy(self._classes[indices])}

    def content(self) -> bytes:
        """All class ids."""
        return self._classes.tobytes()


class PaddedRows:
    """Opened rows; a ``Source``. ``lengths`` (n_samples,) are their token counts, ``ledger`` what became of them.

    Raises:
        DataError: there are no rows.
    """

    text_size: TextSize | None = None
    """Rows are no running text."""

    def __init__(self, tokens: Sequence[Ids], targets: RowTargets, *, tokenizer: Tokenizer, ledger: Ledger) -> None:
        if not tokens:
            raise DataError("no rows are left to learn from or to measure on; the ledger says why each was dropped")
        self.n_samples = len(tokens)
        self.lengths: Ids = np.array([len(row) for row in tokens], dtype=np.int64)
        self.context_length = int(self.lengths.max())
        self.tokenizer_digest = tokenizer.digest
        self.images_digest = ""
        self.tokenizer_name = tokenizer.name
        self.limits: Mapping[str, int] = {"vocab_size": tokenizer.vocab_size, "context_length": self.context_length}
        self.ledger = ledger
        self._tokens, self._targets, self._pad = tokens, targets, tokenizer.end_of_text
        content = (tokenizer.digest.encode(), self.lengths.tobytes(), *(row.tobytes() for row in tokens))
        digest = hashlib.sha256(b"".join(content))
        digest.update(targets.content())
        self.fingerprint = digest.hexdigest()

    def order(self, *, epoch: int, seed: int, batch_size: int) -> Ids:
        """(n_samples,) permutation: runs of ``batch_size`` rows have similar lengths; a ragged run stands last."""
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(self.n_samples).astype(np.int64)
        n_even = self.n_samples - self.n_samples % batch_size
        chunk = batch_size * _CHUNK_BATCHES
        parts = [order[start : min(start + chunk, n_even)] for start in range(0, n_even, chunk)]
        bucketed = [part[np.argsort(self.lengths[part], kind="stable")] for part in parts]
        if not bucketed:
            return order
        batches = np.concatenate(bucketed).reshape(-1, batch_size)
        return np.concatenate([rng.permutation(batches, axis=0).reshape(-1), order[n_even:]])

    def batch(self, indices: Sequence[int] | NDArray[np.int64], *, packed: bool = False, draw: Draw = STILL) -> Batch:
        """Inputs ``tokens`` (B, T) int64, padded on the right with end-of-text.

        Packed, the rows stand one after another: ``tokens`` (1, N).
        """
        del draw  # nothing about these rows is random
        chosen = np.asarray(indices, dtype=np.int64)
        lengths = self.lengths[chosen]
        arrange = _one_after_another if packed else _padded
        return Batch(
            inputs={"tokens": arrange([self._tokens[i] for i in chosen], self._pad)},
            targets=self._targets.targets(chosen, arrange=arrange),
            n_tokens=int(lengths.sum()),
            lengths=tuple(lengths.tolist()),
            packed=packed,
        )


def _padded(rows: Sequence[Ids], value: int) -> Tensor:
    """(B, T) int64, filled up with ``value`` on the right."""
    out = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)


def _one_after_another(rows: Sequence[Ids], value: int) -> Tensor:
    """(1, N) int64; nothing to fill up."""
    del value
    return torch.from_numpy(np.concatenate(rows)[None])
