"""One answer at a time: a score of 0 to 100 against the reference, or the reason why there is none."""

from __future__ import annotations

from typing import Any

from eval.exact import is_exact
from eval.judge.client import ChatClient
from eval.judge.exchange import ask
from eval.judge.prompt import Prompts, load_prompts, render
from eval.judge.schema import POINTWISE
from eval.judge.weighted import compute_weighted_score
from eval.types import MAX_SCORE, Sample, Verdict


class PointwiseJudge:
    """Scores a response against its reference by an anchored rubric.

    A response equal to its reference (see ``eval.exact``) gets 100 without a request, unless ``shortcut`` is off. An
    output that cannot be read is followed by one repair request, and a score it brings is flagged ``repaired``.
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
        self._prompts = prompts or load_prompts("pointwise")
        self._shortcut = shortcut
        self._max_answer_bytes = max_answer_bytes
        self._repeat = repeat

    def __call__(self, sample: Sample, response: str, *, shortcut: bool = True, repeat: int = 0) -> Verdict:
        """A verdict; failures of the server or of the judge's output are verdicts with a reason."""
        if shortcut and self._shortcut and is_exact(response, sample.reference):
            words = "the response is the reference"
            return Verdict(MAX_SCORE, words, None, "", 0.0, source="exact_match", weighted=float(MAX_SCORE))
        rendered = render(
            self._prompts, sample=sample, answers={"answer": response}, max_answer_bytes=self._max_answer_bytes
        )
        found = ask(self._client, rendered, prompts=self._prompts, form=POINTWISE, repeat=self._repeat + repeat)
        weighted = compute_weighted_score(found.reply) if found.reply and found.reason is None else None
        return Verdict(
            score=found.value,
            rationale=found.rationale,
            reason=found.reason,
            raw=found.raw,
            seconds=found.seconds,
            flags=found.flags,
            detail=found.detail,
            weighted=weighted.score if weighted else None,
            valid_mass=weighted.mass if weighted else None,
            prompt=found.prompt,
            load_seconds=found.load_seconds,
            cached=found.cached,
        )

    def describe(self) -> dict[str, Any]:
        """Everything that can change a verdict."""
        return {
            "mode": "pointwise",
            "prompt_digest": self._prompts.digest,
            "schema_digest": POINTWISE.digest,
            "shortcut": self._shortcut,
            "max_answer_bytes": self._max_answer_bytes,
            "repeat": self._repeat,
            "client": dict(self._client.describe()),
        }
