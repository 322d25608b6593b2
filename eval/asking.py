"""Many questions to a judge: some at a time, in a given order, with a count of what is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol, TypeVar

from eval.errors import EvalConfigError
from eval.types import Progress


class Answer(Protocol):
    """What the estimate of the time left needs to know of a verdict."""

    @property
    def source(self) -> str:
        """``judge`` if the judge was asked."""
        ...

    @property
    def cached(self) -> bool:
        """Whether the store answered for it."""
        ...

    @property
    def seconds(self) -> float:
        """How long the judge took."""
        ...


OnProgress = Callable[[Progress], None]
V = TypeVar("V", bound=Answer)


def ask_all(
    questions: Sequence[Callable[[], V]],
    *,
    order: Sequence[int],
    concurrency: int = 1,
    on_progress: OnProgress | None = None,
) -> list[V]:
    """The answers, in the order of the questions; asked in ``order``, ``concurrency`` at once.

    After an error or Ctrl-C the questions that wait are not asked; those under way end by their own deadlines.
    Raises what a question raises, and EvalConfigError for a concurrency below 1.
    """
    if concurrency < 1:
        raise EvalConfigError(f"expected a concurrency of at least 1, got {concurrency}")
    answers: dict[int, V] = {}
    meter = _Meter(total=len(questions), concurrency=concurrency)
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="judge")
    try:
        # as_completed gives those that are answered before it is called in any order; the queue has the true one.
        answered: SimpleQueue[Future[V]] = SimpleQueue()
        asked: dict[Future[V], int] = {}
        for index in order:
            question = pool.submit(questions[index])
            asked[question] = index
            question.add_done_callback(answered.put)
        for _ in asked:
            question = answered.get()
            answers[asked[question]] = question.result()
            if on_progress is not None:
                on_progress(meter.record(answers[asked[question]]))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [answers[index] for index in range(len(questions))]


@dataclass
class RoundsProgress:
    """The progress of several rounds of questions as one: each round has it as its ``on_progress``."""

    on_progress: OnProgress | None
    """Called with the progress of all rounds."""
    total: int
    """Questions of all rounds."""
    done: int = 0
    seconds_each: float | None = None
    """As of the last round in which the judge had to be asked."""

    def __call__(self, progress: Progress) -> None:
        """One more answer is there; ``progress`` is that of its round."""
        self.done += 1
        self.seconds_each = self.seconds_each if progress.seconds_each is None else progress.seconds_each
        if self.on_progress is not None:
            self.on_progress(Progress(self.done, self.total, self.seconds_each))


@dataclass
class _Meter:
    """Counts answers and reckons what the rest will take."""

    total: int
    concurrency: int
    done: int = 0
    fresh: int = 0
    """Of them, those that the store did not give."""
    waited: float = 0.0
    """Seconds that the judge took for them, one after another."""
    judged: bool = False

    def record(self, answer: Answer) -> Progress:
        """One more is there."""
        self.done += 1
        if not answer.cached:
            self.fresh += 1
            self.waited += answer.seconds
            self.judged = self.judged or answer.source == "judge"
        # Of the questions that are left, as many need the judge as did among those that the store did not give.
        return Progress(self.done, self.total, self.waited / self.fresh / self.concurrency if self.judged else None)
