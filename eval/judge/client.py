"""The seam to a judge's backend: messages in, one reply out, or a typed failure.

A backend is anything with ``chat``, ``describe`` and ``verify``; what stands before it (the store of answers) has the
same face.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, Self, TypedDict

from eval.errors import EvalConfigError
from eval.types import UnscoredReason

TEMPLATE_TOKENS = 64
"""More than a chat template adds around three or four messages."""


class Message(TypedDict):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Options:
    """What the model is run with."""

    seed: int = 123
    temperature: float = 0.0
    num_ctx: int = 8192
    """Tokens of the window; constant in a run, since another value makes Ollama load the model again."""
    num_predict: int = 256
    """Tokens the judge may write."""

    def __post_init__(self) -> None:
        """Raise EvalConfigError for a window without room for a prompt."""
        if self.num_predict < 1 or self.num_ctx <= self.num_predict + TEMPLATE_TOKENS:
            raise EvalConfigError(
                f"num_ctx {self.num_ctx} leaves no room for a prompt beside num_predict {self.num_predict};"
                " raise num_ctx or lower num_predict"
            )


@dataclass(frozen=True)
class Deadlines:
    """Seconds after which a request is given up."""

    connect: float = 5.0
    read: float = 120.0
    """Until the answer begins: the time in which the prompt is read."""
    idle: float = 60.0
    """The longest silence inside an answer that has begun."""
    total: float = 300.0
    """The whole request. Looked at whenever bytes come, so a request ends at the latest one ``idle`` after it."""
    load: float = 600.0
    """Loading the model before the first request."""

    def __post_init__(self) -> None:
        """Raise EvalConfigError unless all are above 0."""
        for name, seconds in asdict(self).items():
            if not seconds > 0:
                raise EvalConfigError(f"expected a deadline {name!r} above 0 seconds, got {seconds}")


@dataclass(frozen=True)
class NumberToken:
    """A token of the answer that is a number, with what the model might have written in its place."""

    start: int
    """Where the token begins in the answer, in characters."""
    text: str
    """As written, white space included."""
    alternatives: tuple[tuple[str, float], ...]
    """Tokens with their log-probabilities, the written one among them; at most as many as the server gives."""


@dataclass(frozen=True)
class Reply:
    """One finished answer of the judge model."""

    content: str
    """The text."""
    prompt_tokens: int | None
    """Tokens of the prompt as the server counted them; None if it did not say."""
    answer_tokens: int | None
    """Tokens written; None if the server did not say."""
    done: bool
    """Whether the answer came with its end mark."""
    done_reason: str | None
    """Why it ended: ``stop``, or ``length`` when the limit of tokens cut it."""
    seconds: float
    """From sending the request to the end mark, loading the model not counted."""
    load_seconds: float = 0.0
    """How long this client's server took to load the model before it could answer."""
    thinking: str = ""
    """What a thinking model wrote before its answer."""
    numbers: tuple[NumberToken, ...] = ()
    """The numbers in the answer with their alternatives; empty where the server gives no log-probabilities."""
    cached: bool = False
    """Whether it was read from the store instead of asked."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**vars(self), "numbers": [vars(number) for number in self.numbers]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave; raises TypeError, ValueError or KeyError for anything else."""
        numbers = tuple(
            NumberToken(int(one["start"]), str(one["text"]), tuple((str(t), float(p)) for t, p in one["alternatives"]))
            for one in value["numbers"]
        )
        return cls(**{**value, "numbers": numbers})


@dataclass(frozen=True)
class JudgeModel:
    """Which model on which server judges; what a report needs in order to name its instrument."""

    url: str
    """The server's address."""
    model: str
    """The model's tag, such as ``llama3:latest``; tags move, so the digest is the identity."""
    digest: str
    """sha256 of the model's manifest, or of what an OpenAI-compatible server says of the model."""
    server_version: str
    """The server's version: engines differ in their numerics."""
    quantization: str
    """Such as ``Q4_0``."""
    parameter_size: str
    """Such as ``8.0B``."""
    context_length: int | None
    """Tokens the model was trained to read; None if the server does not say."""
    capabilities: tuple[str, ...]
    """Such as ``completion``, ``thinking``."""


class CallFailed(Exception):
    """A request that gave no reply; ``reason`` is what the unscored item is counted under."""

    def __init__(self, reason: UnscoredReason, detail: str, *, transient: bool) -> None:
        """``transient`` says whether the same request may well succeed a moment later."""
        super().__init__(f"{reason}: {detail}")
        self.reason: UnscoredReason = reason
        self.detail = detail
        self.transient = transient


class ChatClient(Protocol):
    """A judge's backend."""

    def chat(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any],
        identity: Mapping[str, str | int] | None = None,
    ) -> Reply:
        """Ask once; the output is to follow the JSON ``schema``.

        ``identity`` says what the request is besides its text (prompt digest, item, repair and repeat index). It is
        not sent; a store keys by it, so that a repeat of the same text is a new question.

        Raises CallFailed, and JudgeChanged if the model behind the name was found to be another one.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Everything of the backend that can change an answer, as plain JSON values."""
        ...

    def verify(self) -> None:
        """Raise JudgeChanged if the model or server is no longer the one described; silent if it cannot be known."""
        ...


@dataclass(frozen=True)
class Retry:
    """How often a request that failed in transport is sent again."""

    attempts: int = 3
    """In all, the first included."""
    first_wait: float = 0.5
    """Seconds before the second attempt; doubled before each further one."""


def call_with_retry(call: Callable[[], Reply], *, retry: Retry) -> Reply:
    """Run ``call``, and again after transient failures; raises the last CallFailed.

    A deadline that passed is not transient: the wait has been spent already, and a second one would double a hang.
    """
    wait = retry.first_wait
    for _ in range(retry.attempts - 1):
        try:
            return call()
        except CallFailed as failure:
            if not failure.transient:
                raise
        time.sleep(wait)
        wait *= 2
    return call()
