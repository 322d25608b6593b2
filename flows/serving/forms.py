"""What both dialects share: sampling values, stop strings, and fields that are refused or of no effect."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flows.serving.refusal import Refusal
from flows.serving.served import Served
from gptcore.generation import Request, Sampling
from gptcore.text import Turn

_MAX_STOPS = 16
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def sampling_of(
    served: Served,
    *,
    max_tokens: int | None,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
) -> Sampling:
    """The values of a request as the model takes them: no limit is the context's, no seed a random one.

    Raises:
        ConfigError: a value means nothing.
    """
    return Sampling(
        max_new_tokens=served.context_length if max_tokens is None else max_tokens,
        temperature=temperature,
        top_k=None if top_k in (0, -1) else top_k,  # both protocols' servers take these for "off"
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=secrets.randbelow(2**31) if seed is None else seed,
    )


def request_of(
    served: Served,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    stop: str | Sequence[str] | None,
    cut: bool,
    n_alternatives: int | None = None,
    templated: bool = False,
) -> Request:
    """A prompt with its sampling; one that is too long is cut to leave room for an answer, or refused.

    Raises:
        Refusal: there are too many stop strings.
    """
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > _MAX_STOPS:
        raise Refusal(f"stop has {len(stops)} strings; at most {_MAX_STOPS} are taken", param="stop")
    return Request(
        prompt or [served.text.tokenizer.end_of_text],
        sampling,
        end_token=served.text.end_token,
        stop=(*(served.text.stops if templated else ()), *stops),
        reserve=reserved(served, sampling) if cut else 1,
        overflow="cut_front" if cut else "refuse",
        n_alternatives=n_alternatives,
    )


def reserved(served: Served, sampling: Sampling) -> int:
    """Positions that a prompt which is cut leaves to the answer: what it may take, up to a quarter of the context."""
    return max(1, min(sampling.max_new_tokens, served.context_length // 4))


def seeds(request: Request, n: int) -> list[Request]:
    """The request ``n`` times, each with a seed of its own."""
    sampling = request.sampling
    return [replace(request, sampling=replace(sampling, seed=(sampling.seed + i) % 2**63)) for i in range(n)]


def turns_of(messages: Sequence[tuple[str, str]]) -> list[Turn]:
    """(role, content) as turns.

    Raises:
        Refusal: a role that the model has not learned.
    """
    turns = []
    for number, (role, content) in enumerate(messages):
        if role not in ROLES:
            raise Refusal(f"messages.{number}.role is {role!r}; it must be one of {', '.join(ROLES)}", param="messages")
        turns.append(Turn(ROLES[role], content))  # type: ignore[arg-type]
    return turns


def refuse_unsupported(values: Mapping[str, Any], neutral: Mapping[str, Sequence[Any]]) -> None:
    """Refuse fields that would change the answer if they were understood, unless their value says nothing.

    Raises:
        Refusal: names the field.
    """
    for name, accepted in neutral.items():
        if name in values and values[name] is not None and values[name] not in accepted:
            raise Refusal(f"{name} is not supported by this server; leave it out", code="unsupported", param=name)
