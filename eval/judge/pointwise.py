"""One answer at a time: a score of 0 to 100 against the reference, or the reason why there is none."""

from __future__ import annotations

import time
from typing import Any

from eval.digest import digest
from eval.exact import is_exact
from eval.judge.client import CallFailed, ChatClient
from eval.judge.prompt import Prompts, pointwise_prompts, render, repair_messages
from eval.judge.schema import VERDICT_SCHEMA, Scored, read_reply
from eval.types import MAX_SCORE, Sample, Verdict

_REPAIRS = 1


class PointwiseJudge:
    """Scores a response against its reference by an anchored rubric.

    A response equal to its reference (see ``eval.exact``) gets 100 without a request, unless ``shortcut`` is off. An
    output that cannot be read is followed by one repair request, and a score it brings is flagged ``repaired``; there
    is no asking until something parses.
    """

    def __init__(
        self,
        client: ChatClient,
        *,
        prompts: Prompts | None = None,
        shortcut: bool = True,
        max_answer_bytes: int = 3000,
        repeat: int = 0,
    ) -> None:
        """Judge through ``client``; ``repeat`` above 0 asks the same questions anew past any store."""
        self._client = client
        self._prompts = prompts or pointwise_prompts()
        self._shortcut = shortcut
        self._max_answer_bytes = max_answer_bytes
        self._repeat = repeat

    def __call__(self, sample: Sample, response: str) -> Verdict:
        """A verdict; failures of the server or of the judge's output are verdicts with a reason."""
        started = time.monotonic()
        if self._shortcut and is_exact(response, sample.reference):
            elapsed = time.monotonic() - started
            return Verdict(MAX_SCORE, "the response is the reference", None, "", elapsed, source="exact_match")
        return self._ask(sample, response, started=started)

    def describe(self) -> dict[str, Any]:
        """Everything that can change a verdict."""
        return {
            "mode": "pointwise",
            "prompt_digest": self._prompts.digest,
            "schema_digest": digest(VERDICT_SCHEMA),
            "shortcut": self._shortcut,
            "max_answer_bytes": self._max_answer_bytes,
            "repeat": self._repeat,
            "client": dict(self._client.describe()),
        }

    def _ask(self, sample: Sample, response: str, *, started: float) -> Verdict:
        rendered = render(self._prompts, sample=sample, response=response, max_answer_bytes=self._max_answer_bytes)
        messages, flags = rendered.messages, list(rendered.flags)
        raw = ""
        for repair in range(_REPAIRS + 1):
            identity = self._identity(rendered.item, repair=repair)
            try:
                reply = self._client.chat(messages, schema=VERDICT_SCHEMA, identity=identity)
            except CallFailed as failure:
                reason, detail = failure.reason, failure.detail
                break
            raw = reply.content
            if reply.cached and "cached" not in flags:
                flags.append("cached")
            outcome = read_reply(reply)
            if isinstance(outcome, Scored):
                flags += ["repaired"] if repair else []
                flags += [] if outcome.rationale_first else ["score_first"]
                return Verdict(outcome.score, outcome.rationale, None, raw, _since(started), flags=tuple(flags))
            reason, detail = outcome.reason, outcome.detail
            if repair < _REPAIRS:
                messages = repair_messages(self._prompts, first=rendered.messages, output=raw)
        return Verdict(None, "", reason, raw, _since(started), flags=tuple(flags), detail=detail)

    def _identity(self, item: str, *, repair: int) -> dict[str, str | int]:
        return {
            "mode": "pointwise",
            "prompt": self._prompts.digest,
            "item": item,
            "repeat": self._repeat,
            "repair": repair,
        }


def _since(started: float) -> float:
    return time.monotonic() - started
