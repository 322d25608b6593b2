"""Generator: continuous batching over one preallocated key/value cache.

Requests join and leave between steps ("Orca", https://www.usenix.org/conference/osdi22/presentation/yu). The cache has
a row for each request that is being answered; the rows in use are its first ones, so that a step's batch is a plain
part of it: when a row ends, the last one takes its place. A prompt is read alone, in chunks between the steps of the
others ("Sarathi", https://arxiv.org/abs/2308.16369), and attention goes row by row (``gptcore.nn.mixing.cached``):
of all that a request's logits are made of, only the products of the layers know how many neighbours it has, and they
may round otherwise for another number of rows. ``exact`` keeps even that from happening.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gptcore.errors import ConfigError, DivergedError, GptcoreError, TokenizerMismatch
from gptcore.generation.decodable import Decodable, decodable
from gptcore.generation.exactness import stable_batches
from gptcore.generation.request import Answer, Finish, Request, Token
from gptcore.generation.sampling import penalise, sample_token
from gptcore.generation.streaming import TextStream
from gptcore.models.network import Network
from gptcore.tokenizer import Tokenizer


@dataclass(frozen=True)
class Event:
    """What a step has brought to one request."""

    ticket: int
    """As ``submit`` gave it."""
    token: Token | None
    """The new token, unless the answer ended without one."""
    text: str
    """What can be shown now; empty while a character or a possible stop string is not complete."""
    answer: Answer | None
    """The whole answer, in the last event of a request."""


@dataclass
class _Row:
    """A request on its way."""

    ticket: int
    request: Request
    prompt: list[int]
    n_cut: int
    limit: int
    stream: TextStream | None
    draws: torch.Generator
    seen: Tensor | None
    opening: Sequence[int] = ()
    """What is read before the first token; nothing until the request has a slot."""
    n_read: int = 0
    tokens: list[Token] = field(default_factory=list)

    def answer(self, finish: Finish, error: GptcoreError | None = None) -> Answer:
        text = self.stream.text if self.stream else ""
        return Answer(tuple(self.tokens), text, finish, len(self.prompt), self.n_cut, error)


class Generator:
    """Answers requests in a fixed number of slots.

    Not for several threads at once: whoever shares one puts a lock or a queue before it.

    Args:
        model: says what may come next; its mode is put back after each step.
        tokenizer: for texts and stop strings; tokens that it does not know are never chosen.
        slots: requests that are answered at the same time; more wait.
        prefill_chunk: the most tokens of a prompt that are read at once, and about the most that are read between two
            steps of the answers.
        capacity: the most positions of prompt and answer together; by default, and at most, the model's context.
        exact: let the logits of a request be the same to the last bit whatever its neighbours are, at the price of
            batches that are larger than needed when few slots are in use.

    Raises:
        ConfigError: the model cannot generate, a number is below 1, or with ``exact`` no batch size has that property
            on this machine.
        TokenizerMismatch: the tokenizer has more tokens than the model.
    """

    def __init__(
        self,
        model: Decodable | Network,
        *,
        tokenizer: Tokenizer | None = None,
        slots: int = 16,
        prefill_chunk: int = 256,
        capacity: int | None = None,
        exact: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.slots = decodable(model, purpose="answers"), tokenizer, slots
        sizes = self.model.config
        self.context_length = min(capacity or sizes.context_length, sizes.context_length)
        for name, value in (("slots", slots), ("prefill_chunk", prefill_chunk), ("capacity", self.context_length)):
            if value < 1:
                raise ConfigError(f"expected {name} to be at least 1, got {value}")
        self.vocab_size = sizes.vocab_size
        if tokenizer is not None:
            if tokenizer.vocab_size > self.vocab_size:
                raise TokenizerMismatch(
                    f"expected a tokenizer of at most the {self.vocab_size} tokens of the model's vocabulary, got "
                    f"{tokenizer.name!r} with {tokenizer.vocab_size}; use the tokenizer that the model was trained with"
                )
            self.vocab_size = tokenizer.vocab_size
        self._chunk = prefill_chunk
        with _evaluating(self.model):
            self._batches = stable_batches(self.model, at_least=slots) if exact else list(range(1, slots + 1))
        self._cache = self.model.new_cache(self._batches[-1], capacity=self.context_length)
        self._waiting: deque[_Row] = deque()
        self._reading: _Row | None = None  # its cache row is the one behind those of the answering
        self._answering: list[_Row] = []
        self._n_tickets = 0

    @property
    def n_active(self) -> int:
        """Slots in use."""
        return len(self._answering) + (self._reading is not None)

    @property
    def n_waiting(self) -> int:
        """Requests without a slot."""
        return len(self._waiting)

    def submit(self, request: Request) -> int:
        """Queue a request; the ticket that its events carry.

        Raises:
            ConfigError: it cannot be answered as it is (``Request.fit_prompt``), or has stop strings, but there is no
                tokenizer.
            DataError: a token id is outside the vocabulary.
        """
        prompt, n_cut = request.fit_prompt(context_length=self.context_length, vocab_size=self.vocab_size)
        if request.stop and self.tokenizer is None:
            raise ConfigError("stop strings need a tokenizer; give one to the Generator")
        self._n_tickets += 1
        sampling = request.sampling
        seen = None
        if sampling.repetition_penalty != 1:
            seen = torch.zeros(self.vocab_size, dtype=torch.bool, device=self._cache.lengths.device)
            seen[prompt] = True
        row = _Row(
            self._n_tickets,
            request,
            prompt,
            n_cut,
            limit=sampling.max_new_tokens,
            stream=None if self.tokenizer is None else TextStream(self.tokenizer, request.stop),
            draws=torch.Generator().manual_seed(sampling.seed),
            seen=seen,
        )
        self._waiting.append(row)
        return row.ticket

    def cancel(self, ticket: int) -> Answer | None:
        """End a request now; what it has of an answer, or None if it has ended before."""
        for row in self._waiting:
            if row.ticket == ticket:
                self._waiting.remove(row)
                return row.answer("cancelled")
        if self._reading is not None and self._reading.ticket == ticket:
            row, self._reading = self._reading, None
            self._cache.clear(len(self._answering))
            return row.answer("cancelled")
        for place, row in enumerate(self._answering):
            if row.ticket == ticket:
                self._leave(place)
                return row.answer("cancelled")
        return None

    def abandon(self, error: GptcoreError) -> list[Event]:
        """End everything that has a slot with an error, so that those who wait can proceed."""
        rows = [*self._answering, *([self._reading] if self._reading else [])]
        for place in range(len(rows)):
            self._cache.clear(place)
        self._answering, self._reading = [], None
        return [Event(row.ticket, None, "", row.answer("error", error)) for row in rows]

    @torch.no_grad()
    def step(self) -> list[Event]:
        """Read prompts into free slots, then add one token to each answer; nothing if there is nothing to do.

        A model whose logits are not finite ends the one request that meets them with a ``DivergedError``.
        """
        with _evaluating(self.model):
            events = self._read()
            if self._answering:
                events += self._choose_tokens(self._next_logits())
        return events

    def generate(
        self, requests: Sequence[Request], *, on_event: Callable[[int, Event], None] | None = None
    ) -> list[Answer]:
        """The answers to all requests, in their order.

        Args:
            requests: as many as there are; those without a slot wait.
            on_event: called with the number of the request and what a step has brought to it.

        Raises:
            ConfigError, DataError: a request cannot be answered as it is; none is then.
            DivergedError: the model gives NaN or infinite logits.
        """
        numbers: dict[int, int] = {}
        answers: dict[int, Answer] = {}
        try:
            for number, request in enumerate(requests):
                numbers[self.submit(request)] = number
            while len(answers) < len(numbers):
                for event in self.step():
                    if on_event is not None:
                        on_event(numbers[event.ticket], event)
                    if event.answer is not None:
                        if event.answer.error is not None:
                            raise event.answer.error
                        answers[numbers[event.ticket]] = event.answer
        finally:
            for ticket in numbers:
                self.cancel(ticket)
        return [answers[number] for number in range(len(answers))]

    def _read(self) -> list[Event]:
        """Read waiting prompts, a bounded number of tokens; each first token comes from the end of its prompt."""
        events: list[Event] = []
        left = self._chunk
        while left > 0 and (self._reading or (self._waiting and len(self._answering) < self.slots)):
            row = self._reading or self._waiting.popleft()
            self._reading, place = row, len(self._answering)
            part = self._cache.part(place, place + 1)
            if not row.opening:
                row.opening = self.model.start(row.prompt, part)
                row.limit = min(row.limit, self.context_length - len(row.opening))
            # where a chunk ends, the prompt alone decides: not what others have left of the bound
            chunk = row.opening[row.n_read : row.n_read + self._chunk]
            tokens = self._tensor([chunk])
            row.n_read += len(chunk)
            left -= len(chunk)
            if row.n_read < len(row.opening):
                self.model.read(tokens, cache=part)
                part.advance(len(chunk))
                continue
            logits = self.model.next_logits(tokens, cache=part)
            part.advance(len(chunk))
            self._reading = None
            self._answering.append(row)
            events += self._choose_tokens(logits, first=place)
        return events

    def _next_logits(self) -> Tensor:
        """(B, V) of all answering rows; rows beyond them only fill the batch, and what they hold is not counted."""
        n = len(self._answering)
        size = next(size for size in self._batches if size >= n)
        last = [row.tokens[-1].id for row in self._answering] + [0] * (size - n)
        logits = self.model.next_logits(self._tensor(last)[:, None], cache=self._cache.part(0, size))
        self._cache.part(0, n).advance(1)
        return logits[:n]

    def _choose_tokens(self, logits: Tensor, *, first: int = 0) -> list[Event]:
        """Choose the next token of the rows from ``first`` on, by their (B, V) logits; rows that end leave."""
        logits = logits[:, : self.vocab_size]
        finite = logits.sum(dim=-1).isfinite().tolist()
        rows = self._answering[first:]
        events = [self._choose_token(row, logits[i], finite=finite[i]) for i, row in enumerate(rows)]
        for place in reversed(range(len(rows))):
            if events[place].answer is not None:
                self._leave(first + place)
        return events

    def _choose_token(self, row: _Row, logits: Tensor, *, finite: bool) -> Event:
        if not finite:
            error = DivergedError(
                "the model gives NaN or infinite logits; its weights are damaged or it diverged in training"
            )
            return Event(row.ticket, None, "", row.answer("error", error))
        request = row.request
        weighed = logits if row.seen is None else penalise(logits, row.seen, request.sampling.repetition_penalty)
        chosen = sample_token(weighed, request.sampling, row.draws)
        if chosen == request.end_token:
            text = row.stream.finish() if row.stream else ""
            return Event(row.ticket, None, text, row.answer("stop"))
        token = _describe_token(chosen, logits, request.n_alternatives)
        row.tokens.append(token)
        if row.seen is not None:
            row.seen[chosen] = True
        text = row.stream.push(chosen) if row.stream else ""
        if row.stream is not None and row.stream.stopped:
            return Event(row.ticket, token, text, row.answer("stop"))
        if len(row.tokens) < row.limit:
            return Event(row.ticket, token, text, None)
        text += row.stream.finish() if row.stream else ""
        finish: Finish = "stop" if row.stream is not None and row.stream.stopped else "length"
        return Event(row.ticket, token, text, row.answer(finish))

    def _leave(self, place: int) -> None:
        """Free a row: the last answering one takes its place, and the one that is being read takes that one's."""
        last = len(self._answering) - 1
        if place != last:
            self._cache.copy_row(last, place)
            self._answering[place] = self._answering[last]
        self._answering.pop()
        self._cache.clear(last)
        if self._reading is not None:
            self._cache.copy_row(last + 1, last)
            self._cache.clear(last + 1)

    def _tensor(self, ids: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(ids, dtype=torch.int64, device=self._cache.lengths.device)


def _describe_token(chosen: int, logits: Tensor, n_alternatives: int | None) -> Token:
    if n_alternatives is None:
        return Token(chosen)
    total = logits.logsumexp(dim=-1)
    likeliest, ids = logits.topk(min(n_alternatives, len(logits)))
    alternatives = zip(ids.tolist(), (likeliest - total).tolist(), strict=True)
    return Token(chosen, float(logits[chosen] - total), tuple(alternatives))


@contextmanager
def _evaluating(model: Decodable) -> Iterator[None]:
    """The model in evaluation mode, for as long as it is used."""
    was_training = model.training
    if was_training:
        model.train(False)
    try:
        yield
    finally:
        if was_training:
            model.train()
