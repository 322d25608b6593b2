"""Batches of a stage's work as tasks of its flow: on threads, or on the workers of a Dask or Ray cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

from flows.launch.launch import Launch
from flows.orchestrator.flow_run import current_flow_run
from gptcore.data.batches import Spread, in_turn

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 2
"""Batches that are under way for each worker: one is worked on while another is brought."""


@contextmanager
def fan_out(launch: Launch) -> Iterator[Spread]:
    """A ``map`` over batches whose work is done by tasks of the flow that runs; outside a flow, in turn.

    The results come in the order of the batches, so they are the same wherever they were made. A batch that is the only
    one is worked on in place.

    Raises:
        ConfigError: the runner's extra is not installed.
    """
    if current_flow_run() is None:
        yield in_turn
        return
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.futures import PrefectFuture

    from flows.launch.task_runners import task_runner

    # Prefect would hash every text, in case it has seen the batch before.
    work = task(name="batch", persist_result=False, cache_policy=NO_CACHE)(_work)
    with task_runner(launch.runner, workers=launch.n_workers) as runner:

        def spread(function: Callable[[list[T]], R], batches: Iterable[list[T]], /) -> Iterator[R]:
            reader = iter(batches)
            begun = list(islice(reader, 2))
            if len(begun) < 2:  # a task takes longer than a single batch
                yield from map(function, begun)
                return
            under_way: deque[PrefectFuture[Any]] = deque()
            for batch in chain(begun, reader):
                # in a call that is yet to be made, it looks for no futures among the texts
                under_way.append(runner.submit(work, {"call": partial(function, batch)}))
                if len(under_way) >= _AHEAD * launch.n_workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()

        yield spread


def _work(call: Callable[[], R]) -> R:
    return call()
