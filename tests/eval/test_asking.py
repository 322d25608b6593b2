"""Asking many: order, concurrency, progress with an estimate, and the end after an error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from eval.asking import RoundsProgress, ask_all
from eval.errors import EvalConfigError
from eval.types import Progress


@dataclass(frozen=True)
class Said:
    value: int
    source: str = "judge"
    cached: bool = False
    seconds: float = 2.0


@pytest.mark.parametrize("concurrency", [1, 4])
def test_answers_keep_the_order_of_the_questions_whatever_the_order_of_asking(concurrency: int) -> None:
    asked: list[int] = []
    threads: set[str] = set()

    def ask(n: int) -> Said:
        asked.append(n)
        threads.add(threading.current_thread().name)
        return Said(n)

    order = [3, 0, 4, 1, 2]
    answers = ask_all([partial(ask, n) for n in range(5)], order=order, concurrency=concurrency)
    assert [answer.value for answer in answers] == [0, 1, 2, 3, 4]
    assert sorted(asked) == [0, 1, 2, 3, 4]
    assert len(threads) <= concurrency
    if concurrency == 1:
        assert asked == order


def test_the_time_left_comes_from_the_answers_that_were_asked_for() -> None:
    answers = [Said(0, cached=True), Said(1, source="exact_match", seconds=0.0), Said(2), Said(3), Said(4), Said(5)]
    seen: list[Progress] = []
    ask_all([partial(lambda one: one, one) for one in answers], order=range(6), on_progress=seen.append)
    assert [(one.done, one.total) for one in seen] == [(n, 6) for n in range(1, 7)]
    # Nothing is known before the judge was asked; then one of two new questions took it 2 seconds, and so on.
    assert [one.seconds_left for one in seen] == [
        None,
        None,
        pytest.approx(3 * 2 / 2),
        pytest.approx(2 * 4 / 3),
        pytest.approx(6 / 4),
        0,
    ]
    faster: list[Progress] = []
    ask_all([partial(Said, n) for n in range(4)], order=range(4), concurrency=2, on_progress=faster.append)
    assert faster[0].seconds_left == pytest.approx(3 * 2 / 2)


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that take the interpreter from each other all the time: answers are there before they are awaited."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_threads")
def test_answers_from_the_store_say_nothing_of_the_time_that_is_left() -> None:
    stored, fresh = Said(0, cached=True, seconds=60.0), Said(1, seconds=3.0)
    seen: list[Progress] = []
    ask_all([lambda: stored] * 90 + [lambda: fresh] * 10, order=range(100), on_progress=seen.append)
    assert [one.seconds_left for one in seen[:90]] == [None] * 90
    assert [one.seconds_left for one in seen[90:]] == pytest.approx([3.0 * left for left in range(9, -1, -1)])


def test_several_rounds_are_told_as_one() -> None:
    seen: list[Progress] = []
    together = RoundsProgress(seen.append, total=5)
    ask_all([partial(Said, n) for n in range(2)], order=range(2), on_progress=together)
    ask_all([partial(Said, n, cached=True) for n in range(3)], order=range(3), on_progress=together)
    assert [(one.done, one.total, one.seconds_left) for one in seen] == [(n, 5, 2.0 * (5 - n)) for n in range(1, 6)]


def test_after_an_error_nothing_more_is_asked() -> None:
    asked: list[int] = []

    def ask(n: int) -> Said:
        asked.append(n)
        if n == 2:
            raise RuntimeError("a fault of the program")
        time.sleep(0.2)
        return Said(n)

    with pytest.raises(RuntimeError, match="a fault of the program"):
        ask_all([partial(ask, n) for n in range(200)], order=range(200), concurrency=2)
    assert len(asked) < 20


def test_nobody_to_ask_is_refused() -> None:
    with pytest.raises(EvalConfigError, match="expected a concurrency of at least 1, got 0"):
        ask_all([partial(Said, 1)], order=[0], concurrency=0)
