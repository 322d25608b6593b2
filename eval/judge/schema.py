"""The forms of a judge's output, and the reader that turns a reply into a verdict or a typed problem.

The reader is total: whatever the text, it returns, and a score it returns is an integer in 0..100, a choice A, B or
TIE. It takes nothing out of prose, no text, fraction or truth value for an integer, and no other spelling for a choice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.digest import digest
from eval.judge.client import Reply
from eval.judge.transport import make_encodable
from eval.types import MAX_SCORE, MIN_SCORE, UnscoredReason

Mode = Literal["pointwise", "pairwise"]


class _Output(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    rationale: str


class _Score(_Output):
    score: Annotated[int, Field(ge=MIN_SCORE, le=MAX_SCORE)]


class _Choice(_Output):
    verdict: Literal["A", "B", "TIE"]


@dataclass(frozen=True)
class Form:
    """What an output must look like."""

    mode: Mode
    key: str
    """Of the verdict. "rationale" sorts before it, so a server that sorts keys has the judge reason first."""
    schema: Mapping[str, Any]
    """Sent with each request; its keys stand in the wanted order."""
    model: type[_Output]
    """Checks what came."""

    @property
    def digest(self) -> str:
        """sha256 of the schema as it is sent: a grammar made from it follows the order of its properties."""
        return digest(json.dumps(self.schema))


def _build_form(mode: Mode, key: str, value: Mapping[str, Any], model: type[_Output]) -> Form:
    schema = {
        "type": "object",
        "properties": {"rationale": {"type": "string", "maxLength": 400}, key: dict(value)},
        "required": ["rationale", key],
        "additionalProperties": False,
    }
    return Form(mode, key, schema, model)


POINTWISE = _build_form("pointwise", "score", {"type": "integer", "minimum": MIN_SCORE, "maximum": MAX_SCORE}, _Score)
PAIRWISE = _build_form("pairwise", "verdict", {"type": "string", "enum": ["A", "B", "TIE"]}, _Choice)


@dataclass(frozen=True)
class ReadableOutput:
    """An output of the wanted form."""

    value: Any
    """The score, 0..100, or the choice, A, B or TIE."""
    rationale: str
    rationale_first: bool
    """Whether the reasons were written before the verdict."""


@dataclass(frozen=True)
class UnreadableOutput:
    """An output that holds no usable verdict."""

    reason: UnscoredReason
    detail: str


class _DuplicateKey(ValueError):
    pass


def read_reply(reply: Reply, form: Form) -> ReadableOutput | UnreadableOutput:
    """The verdict of a reply, or why it has none: not_done, length, empty, bad_json or schema."""
    if not reply.done:
        return UnreadableOutput("not_done", "the answer has no end mark")
    if reply.done_reason == "length":
        return UnreadableOutput("length", "the judge ran out of tokens before it had finished")
    if not reply.content.strip():
        thought = f"; {len(reply.thinking)} characters of thinking" if reply.thinking else ""
        return UnreadableOutput("empty", f"the judge wrote nothing{thought}")
    return read_output(reply.content, form)


def read_output(text: str, form: Form) -> ReadableOutput | UnreadableOutput:
    """The verdict in the text of an output, which must be one JSON object of the form and nothing else."""
    try:
        value = json.loads(text, object_pairs_hook=_refuse_duplicates)
    except _DuplicateKey as error:
        return UnreadableOutput("schema", str(error))
    except (ValueError, RecursionError) as error:
        # ValueError is also what an integer of thousands of digits raises, RecursionError thousands of brackets.
        return UnreadableOutput("bad_json", str(error) or type(error).__name__)
    try:
        output = form.model.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        return UnreadableOutput("schema", f"{'.'.join(map(str, problem['loc'])) or 'output'}: {problem['msg']}")
    return ReadableOutput(
        getattr(output, form.key), make_encodable(output.rationale), rationale_first=next(iter(value)) == "rationale"
    )


def find_fault(reply: Reply, schema: Mapping[str, Any]) -> UnscoredReason | None:
    """Why a reply to a request with this schema is no verdict, or None if it is one."""
    form = POINTWISE if POINTWISE.key in schema["properties"] else PAIRWISE
    outcome = read_reply(reply, form)
    return outcome.reason if isinstance(outcome, UnreadableOutput) else None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise _DuplicateKey(f"the key {key!r} comes more than once")
        unique[key] = value
    return unique
