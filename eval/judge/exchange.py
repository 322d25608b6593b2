"""One question to the judge, with the one repair request that an unreadable output is allowed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from eval.judge.client import CallFailed, ChatClient, Reply
from eval.judge.prompt import Prompts, RenderedPrompt, build_repair
from eval.judge.schema import Form, ReadableOutput, UnreadableOutput, read_reply
from eval.types import UnscoredReason

_REPAIRS = 1


@dataclass(frozen=True)
class Exchange:
    """What came of a question: a value, or the reason why there is none."""

    value: Any
    """The score or the choice; None if there is none."""
    rationale: str
    """The judge's words before it; empty if there is none."""
    reason: UnscoredReason | None
    """Why there is no value; None if there is one."""
    detail: str
    """What went wrong, in words; empty if nothing did."""
    prompt: str
    """The user message of the first request."""
    reply: Reply | None
    """The last one; None if none came."""
    seconds: float
    """Waiting for the judge, all requests together, loading the model not counted."""
    load_seconds: float
    """How long the judge's server took to load the model."""
    cached: bool
    """Whether every reply was read from the store."""
    flags: tuple[str, ...]
    """``neutralised``, ``cut``, ``repaired``, ``score_first``, where they apply."""

    @property
    def raw(self) -> str:
        """The judge's last output as it came; empty if there was none."""
        return self.reply.content if self.reply else ""


def ask(client: ChatClient, rendered: RenderedPrompt, *, prompts: Prompts, form: Form, repeat: int) -> Exchange:
    """Ask, and once more in other words if the output cannot be read; there is no asking until something parses."""
    messages, replies = rendered.messages, list[Reply]()
    outcome: ReadableOutput | UnreadableOutput
    failed_seconds = 0.0
    for repair in range(_REPAIRS + 1):
        identity: dict[str, str | int] = {
            "mode": form.mode,
            "prompt": prompts.digest,
            "item": rendered.item,
            "repeat": repeat,
            "repair": repair,
        }
        started = time.monotonic()
        try:
            replies.append(client.chat(messages, schema=form.schema, identity=identity))
        except CallFailed as failure:
            outcome, failed_seconds = UnreadableOutput(failure.reason, failure.detail), time.monotonic() - started
            break
        outcome = read_reply(replies[-1], form)
        if isinstance(outcome, ReadableOutput):
            break
        messages = build_repair(prompts, first=rendered.messages, output=replies[-1].content)
    readable = isinstance(outcome, ReadableOutput)
    repaired = ("repaired",) if readable and len(replies) > 1 else ()
    score_first = ("score_first",) if isinstance(outcome, ReadableOutput) and not outcome.rationale_first else ()
    return Exchange(
        value=outcome.value if isinstance(outcome, ReadableOutput) else None,
        rationale=outcome.rationale if isinstance(outcome, ReadableOutput) else "",
        reason=outcome.reason if isinstance(outcome, UnreadableOutput) else None,
        detail=outcome.detail if isinstance(outcome, UnreadableOutput) else "",
        prompt=rendered.messages[-1]["content"],
        reply=replies[-1] if replies else None,
        seconds=sum(reply.seconds for reply in replies) + failed_seconds,
        load_seconds=max((reply.load_seconds for reply in replies), default=0.0),
        cached=bool(replies) and all(reply.cached for reply in replies),
        flags=(*rendered.flags, *repaired, *score_first),
    )
