"""Engine: a Generator in a thread of its own, and the calls that an event loop makes to it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from flows.serving.metrics import Metrics
from flows.serving.refusal import Refusal
from gptcore.errors import GptcoreError
from gptcore.generation import Answer, Event, Generator, Request

logger = logging.getLogger(__name__)


class EngineError(GptcoreError):
    """The model failed while it answered."""


@dataclass
class Call:
    """What one HTTP request has asked: one or more prompts."""

    requests: Sequence[Request]
    n_cut: int
    """Tokens that were cut from its prompts."""
    asked: float = field(default_factory=time.monotonic)
    first: float | None = None
    """When the first token of all came."""
    answers: dict[int, Answer] = field(default_factory=dict)
    """What has ended, by the number of the prompt."""
    events: asyncio.Queue[tuple[int, Event]] = field(default_factory=asyncio.Queue)
    last: dict[int, float] = field(default_factory=dict)
    tickets: list[int] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether every prompt has its answer."""
        return len(self.answers) == len(self.requests)

    async def stream(self) -> AsyncIterator[tuple[int, Event]]:
        """(number of the prompt, event) as they come, until all have ended."""
        n_ended = 0
        while n_ended < len(self.requests):
            number, event = await self.events.get()
            n_ended += event.answer is not None
            yield number, event


class Engine:
    """Takes calls in the event loop, answers them in a thread, which alone uses ``generator`` from ``start`` on.

    Beside the requests that have a slot ``max_queue`` may wait.
    """

    def __init__(self, generator: Generator, *, max_queue: int, metrics: Metrics) -> None:
        self.generator, self.metrics = generator, metrics
        self._limit = generator.slots + max_queue
        self._n_open = 0
        self._news = threading.Condition()
        self._joining: list[Call] = []
        self._leaving: list[Call] = []
        self._is_closing = False
        self._calls: dict[int, tuple[Call, int]] = {}
        self._thread = threading.Thread(target=self._work, name="generator", daemon=True)

    def start(self) -> None:
        """Begin to answer, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """End the thread; what is open is cancelled."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        await asyncio.to_thread(self._thread.join)

    def ask(self, requests: Sequence[Request]) -> Call:
        """Queue requests; to be called in the event loop.

        Raises:
            ConfigError, DataError: a request cannot be answered as it is.
            Refusal: too many are waiting.
        """
        sizes = {"context_length": self.generator.context_length, "vocab_size": self.generator.vocab_size}
        n_cut = sum(request.fit_prompt(**sizes)[1] for request in requests)
        if len(requests) > self._limit:
            raise Refusal(f"expected at most {self._limit} prompts and choices at once, got {len(requests)}")
        if self._n_open + len(requests) > self._limit:
            raise Refusal(
                f"the server is busy: {self._n_open} requests are running or waiting; try again later",
                status=503,
                code="overloaded",
                retry_after=self._seconds_until_free(),
            )
        call = Call(requests, n_cut)
        self._n_open += len(requests)
        self.metrics.cut_tokens.inc(n_cut)
        with self._news:
            self._joining.append(call)
            self._news.notify()
        return call

    def leave(self, call: Call) -> None:
        """Cancel a call whose client has disconnected; no effect if it has ended."""
        if not call.is_done:
            with self._news:
                self._leaving.append(call)
                self._news.notify()

    def _seconds_until_free(self) -> int:
        """A guess at when a slot is free: what an answer has taken on average, at least a second."""
        sums = {sample.name: sample.value for metric in self.metrics.whole.collect() for sample in metric.samples}
        n = sums.get("gptworks_answer_seconds_count", 0.0)
        return max(1, min(60, round(sums.get("gptworks_answer_seconds_sum", 0.0) / n))) if n else 1

    def _work(self) -> None:
        while True:
            with self._news:
                while not (self._joining or self._leaving or self._is_closing or self._is_busy):
                    self._news.wait()
                joining, self._joining = self._joining, []
                leaving, self._leaving = self._leaving, []
                is_closing = self._is_closing
            for call in joining:
                call.tickets = [self.generator.submit(request) for request in call.requests]
                self._calls |= {ticket: (call, number) for number, ticket in enumerate(call.tickets)}
            gone = [ticket for call in leaving for ticket in call.tickets]
            events = self._cancel([*self._calls] if is_closing else gone)
            if not is_closing:
                events += self._step()
            addressed = [(*self._calls[event.ticket], event) for event in events]
            for event in events:
                if event.answer is not None:
                    del self._calls[event.ticket]
            load = (self.generator.n_active, self.generator.n_waiting)
            self._loop.call_soon_threadsafe(self._hand_out, addressed, load)
            if is_closing:
                return

    @property
    def _is_busy(self) -> bool:
        return bool(self.generator.n_active or self.generator.n_waiting)

    def _cancel(self, tickets: Sequence[int]) -> list[Event]:
        ended = ((ticket, self.generator.cancel(ticket)) for ticket in tickets)
        return [Event(ticket, None, "", answer) for ticket, answer in ended if answer is not None]

    def _step(self) -> list[Event]:
        try:
            return self.generator.step()
        except Exception as error:  # whatever torch raises: waiting requests are still to be answered
            logger.exception("the model failed; what was being answered ends with an error")
            return self.generator.abandon(EngineError(f"the model failed: {type(error).__name__}"))

    def _hand_out(self, addressed: Sequence[tuple[Call, int, Event]], load: tuple[int, int]) -> None:
        """In the event loop: give each call its events, and count."""
        now, metrics = time.monotonic(), self.metrics
        metrics.active.set(load[0])
        metrics.waiting.set(load[1])
        for call, number, event in addressed:
            if event.token is not None:
                metrics.tokens.inc()
                if number in call.last:
                    metrics.next_token.observe(now - call.last[number])
                else:
                    metrics.first_token.observe(now - call.asked)
                    call.first = call.first or now
                call.last[number] = now
            if event.answer is not None:
                self._n_open -= 1
                call.answers[number] = event.answer
                metrics.answers.labels(event.answer.finish).inc()
                metrics.prompt_tokens.inc(event.answer.n_prompt)
                metrics.whole.observe(now - call.asked)
            call.events.put_nowait((number, event))
