"""The seam to a judge's backend: messages in, one reply out, or a typed failure.

A backend is anything with ``chat`` and ``describe``; what stands before it (the store of answers) has the same face.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict

from eval.types import UnscoredReason


class Message(TypedDict):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


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
    """From sending the request to the end mark."""
    load_seconds: float = 0.0
    """The part of it in which the server loaded the model."""
    thinking: str = ""
    """What a thinking model wrote before its answer."""
    cached: bool = False
    """Whether it was read from the store instead of asked."""


@dataclass(frozen=True)
class JudgeModel:
    """Which model on which server judges; what a report needs in order to name its instrument."""

    url: str
    """The server's address."""
    model: str
    """The model's tag, such as ``llama3:latest``; tags move, so the digest is the identity."""
    digest: str
    """sha256 of the model's manifest."""
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

        Raises CallFailed.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Everything of the backend that can change an answer, as plain JSON values."""
        ...


@dataclass(frozen=True)
class Retry:
    """How often a request that failed in transport is sent again."""

    attempts: int = 3
    """In all, the first included."""
    first_wait: float = 0.5
    """Seconds before the second attempt; doubled before each further one."""


def retried(call: Callable[[], Reply], *, retry: Retry) -> Reply:
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
