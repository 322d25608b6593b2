"""TokenWindows: every stretch of a tokenized corpus once per epoch (pretraining).

Window i reads the T + 1 tokens from i*T on: T inputs and, one place later, T targets. Windows overlap by that one
token, so every token but the first is a target exactly once.

Shapes: B windows, T = context_length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gptcore.batch import Batch
from gptcore.data.base import STILL, Data, Draw, TextSize, seeded_order
from gptcore.data.corpus import Shards, open_shards
from gptcore.errors import ConfigError, DataError


@dataclass(frozen=True)
class TokenWindows(Data):
    """Windows over a folder of token shards."""

    folder: Path
    """Written by ``write_shards``."""
    context_length: int
    """T: tokens per window."""

    def open(self) -> WindowSource:
        """Verify and map the shards.

        Raises:
            ConfigError: ``context_length`` is below 1.
            DataError: a shard is damaged, or all texts together are shorter than one window.
        """
        return WindowSource(open_shards(self.folder), context_length=self.context_length, folder=self.folder)


class WindowSource:
    """Opened windows; a ``Source``."""

    def __init__(self, shards: Shards, *, context_length: int, folder: Path) -> None:
        manifest = shards.manifest
        if context_length < 1:
            raise ConfigError(f"context_length is {context_length}; it must be at least 1")
        if manifest.n_tokens <= context_length:
            raise DataError(
                f"the texts in {folder} are shorter than the context: {manifest.n_documents:,} documents give "
                f"{manifest.n_tokens:,} tokens, one window needs {context_length + 1:,}; "
                "add text or lower context_length"
            )
        self.n_samples = (manifest.n_tokens - 1) // context_length
        self.fingerprint = shards.fingerprint
        self.tokenizer_digest = manifest.tokenizer_digest
        self.images_digest = ""
        self.tokenizer_name = manifest.tokenizer_name
        self.limits: Mapping[str, int] = {"vocab_size": manifest.vocab_size, "context_length": context_length}
        self.text_size: TextSize | None = TextSize(manifest.n_tokens, manifest.n_bytes)
        self.context_length = context_length
        self._arrays = shards.arrays
        self._starts = np.cumsum([0, *(len(array) for array in shards.arrays)])

    def order(self, *, epoch: int, seed: int, batch_size: int) -> NDArray[np.int64]:
        """(n_samples,) a seeded permutation; windows are equally long, so ``batch_size`` does not matter."""
        del batch_size
        return seeded_order(self.n_samples, seed=seed, epoch=epoch)

    def batch(self, indices: Sequence[int] | NDArray[np.int64], *, packed: bool = False, draw: Draw = STILL) -> Batch:
        """Inputs ``tokens`` (B, T) int64, targets ``labels`` (B, T) int64: the next token of each."""
        del packed, draw  # windows are equally long, and nothing about them is random
        length = self.context_length + 1
        rows = np.stack([self._read(int(i) * self.context_length, length) for i in indices])  # (B, T+1)
        tokens = torch.from_numpy(rows)
        return Batch(
            inputs={"tokens": tokens[:, :-1].contiguous()},
            targets={"labels": tokens[:, 1:].contiguous()},
            n_tokens=len(rows) * self.context_length,
            lengths=(self.context_length,) * len(rows),
        )

    def _read(self, start: int, length: int) -> NDArray[np.int64]:
        """(length,) tokens from position ``start`` of the corpus, across shard borders."""
        out = np.empty(length, dtype=np.int64)
        filled = 0
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while filled < length:
            offset = start + filled - int(self._starts[shard])
            part = self._arrays[shard][offset : offset + length - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            shard += 1
        return out
