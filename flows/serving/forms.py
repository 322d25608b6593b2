"""What both dialects share: fields that decide an answer, and those that are refused or of no effect."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from flows.serving.refusal import Refusal
from flows.serving.served import Served
from gptcore.generation import Request, Sampling
from gptcore.text import Turn

Neutral = Mapping[str, Sequence[Any]]
_MAX_STOPS = 16
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Form(BaseModel):
    """Fields of a request; one that is left out, or null, has its default."""

    model_config = ConfigDict(extra="forbid")
    neutral: ClassVar[Neutral] = {}
    """Fields that would change the answer if they were understood, with the values that ask for nothing."""
    no_effect: ClassVar[Sequence[str]] = ()
    """Fields that change nothing in an answer."""

    @model_validator(mode="before")
    @classmethod
    def _keep_understood(cls, values: Any) -> Any:
        """Refuse unsupported fields, drop those without effect."""
        if not isinstance(values, dict):
            return values
        for name, accepted in cls.neutral.items():
            if values.get(name) is not None and values[name] not in accepted:
                raise Refusal(f"{name} is not supported by this server; leave it out", code="unsupported", param=name)
        dropped = (*cls.neutral, *cls.no_effect)
        return {name: value for name, value in values.items() if name not in dropped and value is not None}


class Drawing(Form):
    """How an answer is sampled, and where it ends."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | list[str] = []

    def sampling(self, served: Served, *, max_tokens: int | None) -> Sampling:
        """The values as the model takes them: no limit is the context's, no seed a random one.

        Raises:
            ConfigError: a value is out of range.
        """
        return Sampling(
            max_new_tokens=served.context_length if max_tokens is None else max_tokens,
            temperature=self.temperature,
            # both protocols' servers take these values for "off"
            top_k=None if self.top_k in (0, -1) else self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=secrets.randbelow(2**31) if self.seed is None else self.seed,
        )

    def request(
        self,
        served: Served,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        cut: bool,
        n_alternatives: int | None,
        templated: bool,
    ) -> Request:
        """A prompt with its sampling; one that is too long is cut to leave room for an answer, or refused.

        Raises:
            Refusal: there are too many stop strings.
        """
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        if len(stops) > _MAX_STOPS:
            raise Refusal(f"stop: expected at most {_MAX_STOPS} strings, got {len(stops)}", param="stop")
        return Request(
            prompt or [served.text.tokenizer.end_of_text],
            sampling,
            end_token=served.text.end_token,
            stop=(*(served.text.stops if templated else ()), *stops),
            reserve=_room_for_answer(served, sampling) if cut else 1,
            overflow="cut_front" if cut else "refuse",
            n_alternatives=n_alternatives,
        )


def encode_chat(
    served: Served, messages: Sequence[tuple[str, str]], sampling: Sampling, *, cut: bool
) -> tuple[list[int], int]:
    """(role, content) as one prompt, and the tokens of old messages that were left out to fit it.

    Raises:
        Refusal: a role that the model has not learned.
    """
    turns = []
    for number, (role, content) in enumerate(messages):
        if role not in _ROLES:
            raise Refusal(
                f"messages.{number}.role: expected one of {', '.join(_ROLES)}, got {role!r}", param="messages"
            )
        turns.append(Turn(_ROLES[role], content))  # type: ignore[arg-type]
    room = served.context_length - _room_for_answer(served, sampling) if cut else 2**62
    return served.text.encode_chat(turns, room=room)


def _room_for_answer(served: Served, sampling: Sampling) -> int:
    """Positions that a prompt which is cut leaves to the answer: what it may take, up to a quarter of the context."""
    return max(1, min(sampling.max_new_tokens, served.context_length // 4))


def seeds(request: Request, n: int) -> list[Request]:
    """The request ``n`` times, each with a seed of its own."""
    sampling = request.sampling
    return [replace(request, sampling=replace(sampling, seed=(sampling.seed + i) % 2**63)) for i in range(n)]
