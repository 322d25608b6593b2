"""Where batches come from.

A ``Data`` value says which files and how to cut them; ``open`` gives a ``Source`` of numbered samples. The trainer
decides which samples form a step, from ``Source.order``: the order is a function of (seed, epoch, batch size) and of
nothing else, so it is the same for any number of processes, any micro-batch size, and after any restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from gptcore.batch import Batch
from gptcore.config import Config, Json
from gptcore.readers import TextReader


class Draw(NamedTuple):
    """Where the random choices of samples come from: masks, corruption, augmentation, negatives.

    They are functions of seed, epoch and the sample's number alone, hence fresh in each epoch, and equal in any
    micro-batch, on any process and after any restart.
    """

    seed: int
    """Seed of the run."""
    epoch: int
    """Passes over the data that were made before."""

    def stream(self, sample: int, what: str) -> np.random.Generator:
        """A generator of its own for each sample and purpose: one that draws more does not shift the others.

        Args:
            sample: number of the sample in its source.
            what: name of what is drawn, such as ``mask``.
        """
        return np.random.default_rng([self.seed, self.epoch, sample, crc32(what.encode())])


STILL = Draw(seed=0, epoch=0)
"""For held-out data: the same choices in every evaluation."""


class TextSize(NamedTuple):
    """How much text a number of tokens stands for."""

    n_tokens: int
    """Tokens of the whole source."""
    n_bytes: int
    """Bytes of that text in UTF-8."""


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
    limits: Mapping[str, int]
    """What a network must be able to read, by the names of its own bounds: for text ``vocab_size``, above every token
    id, and ``context_length``, the longest sample in positions."""
    context_length: int
    """The longest sample, in positions; 0 where there are none."""

    @property
    def text_size(self) -> TextSize | None:
        """The running text that the samples are cut from, for figures per byte; None where they are something else."""
        ...

    def order(self, *, epoch: int, seed: int, batch_size: int) -> NDArray[np.int64]:
        """(n_samples,) a permutation of the samples; consecutive runs of ``batch_size`` form the steps' batches."""
        ...

    def batch(self, indices: Sequence[int] | NDArray[np.int64], *, packed: bool = False, draw: Draw = STILL) -> Batch:
        """The named samples as one batch, padded on the right to the longest of them, or packed into one row.

        Samples that are all equally long need no packing and are not packed. What is random about a sample comes from
        ``draw`` and its own number alone, never from its neighbours in the batch.
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

    def settings(self) -> Json:
        """All fields but the places of files: those may lie elsewhere tomorrow, their content has a fingerprint."""
        return _without_places(self)


def _without_places(config: Config) -> Json:
    kept = config.to_dict()
    for name in [name for name in kept if name != "kind"]:
        value = getattr(config, name)
        if isinstance(value, Path):
            del kept[name]
        elif isinstance(value, Config):
            kept[name] = _without_places(value)
        elif isinstance(value, tuple) and any(isinstance(item, Config | Path) for item in value):
            kept[name] = [_without_places(item) for item in value if isinstance(item, Config)]
    return kept


def seeded_order(n: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """(n,) int64: the permutation of epoch ``epoch``, from numpy's PCG64 seeded by (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(n).astype(np.int64)
