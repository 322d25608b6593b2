"""Two answers against each other, shown in both orders: which is better, or the reason why that is not known.

A judge that prefers a place over an answer contradicts itself when the order is turned (Zheng et al. 2023,
https://arxiv.org/abs/2306.05685). Such an item is a tie, and counted as a disagreement.
"""

from __future__ import annotations

from typing import Any

from eval.exact import normalise
from eval.judge.client import ChatClient
from eval.judge.exchange import ask
from eval.judge.prompt import Prompts, load_prompts, render
from eval.judge.schema import PAIRWISE
from eval.types import OrderVerdict, PairVerdict, Sample, Slot


class PairwiseJudge:
    """Compares two responses to the same item.

    Two that are the same apart from case and white space are a tie without a request, unless ``shortcut`` is off. If
    one of the two orders cannot be read, the item has no verdict: half of it would bring the bias back.
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
        self._prompts = prompts or load_prompts("pairwise")
        self._shortcut = shortcut
        self._max_answer_bytes = max_answer_bytes
        self._repeat = repeat

    def __call__(self, sample: Sample, left: str, right: str) -> PairVerdict:
        """Which of ``left`` and ``right`` is better; failures are verdicts with a reason."""
        if self._shortcut and normalise(left) == normalise(right):
            return PairVerdict("tie", None, source="identical")
        orders: list[OrderVerdict] = []
        slots: tuple[Slot, Slot] = ("A", "B")
        for slot in slots:
            orders.append(self._ask(sample, left, right, left_slot=slot))
            if (reason := orders[-1].reason) is not None:
                return PairVerdict(None, reason, detail=orders[-1].detail, orders=tuple(orders))
        first, second = (one.preference for one in orders)
        return PairVerdict(first if first == second else "tie", None, orders=tuple(orders))

    def describe(self) -> dict[str, Any]:
        """Everything that can change a verdict."""
        return {
            "mode": "pairwise",
            "prompt_digest": self._prompts.digest,
            "schema_digest": PAIRWISE.digest,
            "shortcut": self._shortcut,
            "max_answer_bytes": self._max_answer_bytes,
            "repeat": self._repeat,
            "client": dict(self._client.describe()),
        }

    def _ask(self, sample: Sample, left: str, right: str, *, left_slot: Slot) -> OrderVerdict:
        first, second = (left, right) if left_slot == "A" else (right, left)
        rendered = render(
            self._prompts,
            sample=sample,
            answers={"answer_a": first, "answer_b": second},
            max_answer_bytes=self._max_answer_bytes,
        )
        found = ask(self._client, rendered, prompts=self._prompts, form=PAIRWISE, repeat=self._repeat)
        return OrderVerdict(
            left_slot=left_slot,
            choice=found.value,
            rationale=found.rationale,
            reason=found.reason,
            raw=found.raw,
            seconds=found.seconds,
            flags=found.flags,
            detail=found.detail,
            prompt=found.prompt,
            load_seconds=found.load_seconds,
            cached=found.cached,
        )
