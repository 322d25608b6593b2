"""Which samples a step, a process and a forward pass get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gptcore.data.base import Source
from gptcore.run import Run
from gptcore.train.feed import Feed

KINDS = ("pretraining", "instruction")


class Asked:
    """A source that remembers which samples it was asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.samples: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def batch(self, indices: Any, **how: Any) -> Any:
        self.samples.append([int(i) for i in indices])
        return self.source.batch(indices, **how)


@pytest.fixture
def taken(kinds: dict[str, Run]) -> Callable[..., list[list[int]]]:
    """The samples of each step from ``first`` on, in the order of the batch, over all processes."""

    def build(
        kind: str, *, world_size: int = 1, micro_batch_size: int | None = None, first: int = 0
    ) -> list[list[int]]:
        run, ranks = kinds[kind], []
        for rank in range(world_size):
            asked = Asked(run.data.open())
            feed = Feed(
                asked, run.objective, 5, run.seed, micro_batch_size=micro_batch_size, rank=rank, world_size=world_size
            )
            steps = []
            for step in range(first, 12):
                share = feed.take(step)
                chosen = [asked.samples.pop(0) for _ in share.micros]  # those of the next step come behind
                real = [samples for samples, micro in zip(chosen, share.micros, strict=True) if micro.real]
                steps.append([i for samples in real for i in samples])
                assert all(len(samples) <= (micro_batch_size or 5) for samples in real)
            feed.close()
            ranks.append(steps)
        return [interleaved([steps[i] for steps in ranks]) for i in range(12 - first)]

    return build


def interleaved(shares: list[list[int]]) -> list[int]:
    """Sample j of a batch is with process j modulo their number."""
    return [shares[j % len(shares)][j // len(shares)] for j in range(sum(map(len, shares)))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("micro_batch_size", [None, 1, 2])
def test_processes_and_micro_batches_split_the_same_order_of_samples(
    taken: Callable[..., list[list[int]]], kind: str, world_size: int, micro_batch_size: int | None
) -> None:
    whole = taken(kind)
    assert len({tuple(step) for step in whole}) == len(whole)
    assert taken(kind, world_size=world_size, micro_batch_size=micro_batch_size) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_feed_that_begins_later_goes_on_in_the_same_order(taken: Callable[..., list[list[int]]], kind: str) -> None:
    """Also in the middle of the second epoch, with another number of processes than before."""
    assert taken(kind, first=8, world_size=2) == taken(kind)[8:]
