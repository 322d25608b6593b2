"""Feed: which samples each step, process and forward pass gets, one step ahead of the training.

The samples of a step are a function of seed, step and batch size alone. Each process takes its share of them and cuts
it into micro-batches; where a process has fewer than the others it gets a filler that counts nothing, because all must
take part in every exchange of gradients. The next step's batches are made in a thread while this one computes.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptcore.batch import Batch
from gptcore.data.base import Draw, Source
from gptcore.objectives.base import Objective
from gptcore.train.weighing import Weighing


class Micro(NamedTuple):
    """One forward pass."""

    batch: Batch
    real: bool
    """False for a filler, whose loss counts nothing."""


class Share(NamedTuple):
    """What one process computes of one step."""

    micros: list[Micro]
    counts: list[int]
    """Items (target tokens, rows) of each part of its loss."""
    n_tokens: int
    """Real input tokens."""


@dataclass
class Feed:
    """The batches of a run, by step."""

    source: Source
    objective: Objective
    batch_size: int
    seed: int
    micro_batch_size: int | None = None
    packed: bool = False
    rank: int = 0
    world_size: int = 1
    _ahead: tuple[int, Future[Share]] | None = field(default=None, init=False)
    _order: tuple[int, NDArray[np.int64]] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Start the thread."""
        self._weighing = Weighing(self.objective)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every sample once; the last one may be smaller."""
        return math.ceil(self.source.n_samples / self.batch_size)

    @property
    def n_rows(self) -> int:
        """Samples of a step over all processes; an epoch's last step may have fewer."""
        return min(self.batch_size, self.source.n_samples)

    def indices(self, step: int) -> NDArray[np.int64]:
        """The samples of a step over all processes: a function of seed, step and batch size alone."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self.source.order(epoch=epoch, seed=self.seed, batch_size=self.batch_size))
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def draw(self, step: int) -> Draw:
        """Where the random choices of a step's samples come from; a step never spans two epochs."""
        return Draw(self.seed, step // self.steps_per_epoch)

    def take(self, step: int) -> Share:
        """This process's share of a step; the next step's is begun."""
        if self._ahead is not None and self._ahead[0] == step:
            share = self._ahead[1].result()
        else:
            share = self._thread.submit(self._make, step).result()
        self._ahead = (step + 1, self._thread.submit(self._make, step + 1))
        return share

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _make(self, step: int) -> Share:
        indices = self.indices(step)
        own = indices[self.rank :: self.world_size]
        largest = math.ceil(len(indices) / self.world_size)
        size = self.micro_batch_size or largest
        draw = self.draw(step)
        micros = []
        for start in range(0, largest, size):
            chosen = own[start : start + size]
            batch = self.source.batch(chosen if len(chosen) else indices[:1], packed=self.packed, draw=draw)
            micros.append(Micro(batch, real=bool(len(chosen))))
        real = [micro.batch for micro in micros if micro.real]
        return Share(micros, self._weighing.counts(real), sum(batch.n_tokens for batch in real))
