"""Batches of bounded size, and the seam through which the work on them may be done elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
BATCH_ITEMS, BATCH_CHARACTERS = 4096, 1 << 20


class Spread(Protocol):
    """Does what ``map`` does: the results in the order of the batches, which are read as they are needed.

    One that has other processes do the work needs a function and batches that can be sent there. It reads no more than
    a few batches ahead, so that memory does not grow with their number.
    """

    def __call__(self, function: Callable[[list[T]], R], batches: Iterable[list[T]], /) -> Iterator[R]:
        """``function`` of each batch."""
        ...


def in_turn(function: Callable[[list[T]], R], batches: Iterable[list[T]], /) -> Iterator[R]:
    """``function`` of each batch, one after another, in this thread."""
    return map(function, batches)


def in_batches(items: Iterable[T], *, size: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in lists of at most ``BATCH_ITEMS`` that end where their sizes reach ``BATCH_CHARACTERS``."""
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if len(batch) >= BATCH_ITEMS or total >= BATCH_CHARACTERS:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
