"""The form of a judge's output, and the reader that turns a reply into a score or a typed problem.

The reader is total: whatever the text, it returns, and a score it returns is an integer in 0..100. It takes no number
out of prose, and no text, fraction or truth value for an integer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.judge.client import Reply
from eval.types import MAX_SCORE, MIN_SCORE, UnscoredReason

VERDICT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "rationale": {"type": "string", "maxLength": 400},
        "score": {"type": "integer", "minimum": MIN_SCORE, "maximum": MAX_SCORE},
    },
    "required": ["rationale", "score"],
    "additionalProperties": False,
}
"""Sent with each request. "rationale" sorts before "score", so a server that sorts keys has the judge reason first."""


class _Output(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    rationale: str
    score: Annotated[int, Field(ge=MIN_SCORE, le=MAX_SCORE)]


@dataclass(frozen=True)
class Scored:
    """A readable output."""

    score: int
    """0..100."""
    rationale: str
    rationale_first: bool
    """Whether the reasons were written before the score."""


@dataclass(frozen=True)
class Unreadable:
    """An output that holds no usable score."""

    reason: UnscoredReason
    detail: str


class _DuplicateKey(ValueError):
    pass


def read_reply(reply: Reply) -> Scored | Unreadable:
    """The score of a reply, or why it has none: not_done, length, empty, bad_json or schema."""
    if not reply.done:
        return Unreadable("not_done", "the answer has no end mark")
    if reply.done_reason == "length":
        return Unreadable("length", "the judge ran out of tokens before it had finished")
    if not reply.content.strip():
        thought = f"; {len(reply.thinking)} characters of thinking" if reply.thinking else ""
        return Unreadable("empty", f"the judge wrote nothing{thought}")
    return read_output(reply.content)


def read_output(text: str) -> Scored | Unreadable:
    """The score in the text of an output, which must be one JSON object of the schema and nothing else."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except _DuplicateKey as error:
        return Unreadable("schema", str(error))
    except (ValueError, RecursionError) as error:
        # ValueError is also what an integer of thousands of digits raises, RecursionError thousands of brackets.
        return Unreadable("bad_json", str(error) or type(error).__name__)
    try:
        output = _Output.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        return Unreadable("schema", f"{'.'.join(map(str, problem['loc'])) or 'output'}: {problem['msg']}")
    # JSON can escape half a surrogate pair, which no file could take.
    rationale = output.rationale.encode("utf-8", errors="replace").decode("utf-8")
    return Scored(output.score, rationale, rationale_first=next(iter(value)) == "rationale")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise _DuplicateKey(f"the key {key!r} comes more than once")
        unique[key] = value
    return unique
