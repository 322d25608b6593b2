"""Where batches come from.

A ``Data`` value says which files and how to cut them; ``open`` gives a ``Source`` of numbered samples. The trainer
decides which samples form a step, from ``Source.order``: the order is a function of (seed, epoch, batch size) and of
nothing else, so it is the same for any number of processes, any micro-batch size, and after any restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gptcore.batch import Batch
from gptcore.config import Config
from gptcore.readers import TextReader


class Source(Protocol):
    """An opened data set of numbered samples."""

    n_samples: int
    """Samples in one epoch."""
    fingerprint: str
    """sha256 of the content, as the checkpoint stores it: a resumed run refuses other data."""
    tokenizer_digest: str
    """Digest of the tokenizer that made the token ids; empty where there are none."""
    images_digest: str
    """Digest of the image reader that made the pixels; empty where there are none."""
    vocab_size: int
    """Upper bound of the token ids; 0 where there are none."""
    context_length: int
    """The longest sample, in positions; 0 where there are none."""

    def order(self, *, epoch: int, seed: int, batch_size: int) -> NDArray[np.int64]:
        """(n_samples,) a permutation of the samples; consecutive runs of ``batch_size`` form the steps' batches."""
        ...

    def batch(self, indices: Sequence[int] | NDArray[np.int64], *, packed: bool = False) -> Batch:
        """The named samples as one batch, padded on the right to the longest of them, or packed into one row.

        Samples that are all equally long need no packing and are not packed.
        """
        ...


@dataclass(frozen=True)
class Data(Config):
    """Which samples there are, as a value that survives JSON."""

    def open(self) -> Source:
        """Open the files; verify them; raise ``DataError`` if they cannot be used."""
        raise NotImplementedError

    @property
    def reader(self) -> TextReader | None:
        """How each text is read, which the checkpoint keeps; None where a sample is not the reading of one text."""
        return None


def seeded_order(n: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """(n,) int64: the permutation of epoch ``epoch``, from numpy's PCG64 seeded by (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(n).astype(np.int64)
