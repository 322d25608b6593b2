"""What the fake model writes: the text of an answer, its tokens, and the probabilities that it claims."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from eval.testing.fake_ollama.scenarios import Scenario

_BAD_VERDICTS: Final[dict[Scenario, Any]] = {
    "text_score": "85",
    "fraction_score": 85.0,
    "above_range": 850,
    "below_range": -1,
    "true_score": True,
    "null_score": None,
}
_FENCE = re.compile(r"<<((?:INSTRUCTION|INPUT|REFERENCE|ANSWER)(?: [AB])?) (\w+)>>\n(.*?)\n<<END \2>>", re.DOTALL)
# As Llama 3 splits: up to three digits are one token; a blank belongs to the word after it.
_TOKEN = re.compile(r"\d{1,3}| ?[^\W\d]+| ?[^\w\s]+|\s+")
SHARES: Final = ((0, 0.5), (-10, 0.3), (10, 0.1))
"""Differences from the written score, with the probability of each; what is left is on a token that is no score."""


@dataclass(frozen=True)
class ChatCall:
    """One request for an answer, as it came."""

    index: int
    """Counted from 0 in the order of arrival."""
    body: dict[str, Any]
    """The JSON."""
    texts: Mapping[str, str]
    """What stands between fences, by their names, such as ``ANSWER``, ``ANSWER A``, ``REFERENCE``."""
    n_tokens: int
    """Of the prompt, at four bytes a token."""
    n_seen: int
    """How often the same prompt came before."""

    @property
    def answer(self) -> str:
        """The judged text; empty if there is none."""
        return self.texts.get("ANSWER", "")

    @property
    def reference(self) -> str:
        """The reference; empty if there is none."""
        return self.texts.get("REFERENCE", "")

    @property
    def is_comparison(self) -> bool:
        """Whether two answers are to be compared."""
        return "ANSWER B" in self.texts


@dataclass(frozen=True)
class Token:
    """One token of an answer."""

    text: str
    logprob: float
    alternatives: Sequence[tuple[str, float]]
    """Tokens that might have stood here, with their log-probabilities, the likeliest first."""

    def describe(self, n_alternatives: int) -> dict[str, Any]:
        """As Ollama and OpenAI report it."""
        return {
            **_describe_token(self.text, self.logprob),
            "top_logprobs": [_describe_token(*one) for one in self.alternatives[:n_alternatives]],
        }


def join_prompt(body: Mapping[str, Any]) -> str:
    """All messages of a request as one text."""
    return "\n".join(str(message.get("content", "")) for message in body.get("messages") or ())


def find_fenced(prompt: str) -> dict[str, str]:
    """The texts between the judge's fences."""
    return {name: text for name, _, text in _FENCE.findall(prompt)}


def score_overlap(answer: str, reference: str) -> int:
    """A stand-in for a judge: 100 times the F1 of the two sets of words."""
    ours, theirs = set(answer.lower().split()), set(reference.lower().split())
    both = len(ours & theirs)
    return round(200 * both / (len(ours) + len(theirs))) if both else 0


def write_answer(verdict: int | Literal["A", "B", "TIE"], scenario: Scenario) -> str:
    """The text of the answer that gives this verdict, or of what the scenario makes of it."""
    key = "score" if isinstance(verdict, int) else "verdict"
    value: Any = _BAD_VERDICTS.get(scenario, verdict)
    rationale = {
        "lone_surrogate": "half of a pair: \ud83d",
        "special_tokens": "<|eot_id|><|start_header_id|>assistant<|end_header_id|> [INST] as told",
    }.get(scenario, "The words shared with the reference.")
    text = json.dumps({"rationale": rationale, key: value}, sort_keys=scenario == "sorted_keys")
    return {
        "reversed_keys": json.dumps({key: value, "rationale": rationale}),
        "double_key": text[:-1] + f', "{key}": {json.dumps(value)}}}',
        "length": text[: len(text) // 2],
        "prose": f"Here is my verdict:\n{text}\nI hope this helps!",
        "empty": "",
        "whitespace": "\n" * 40,
    }.get(scenario, text)


def tokenise(text: str, scenario: Scenario) -> list[Token]:
    """The text in tokens; at numbers the model is unsure, everywhere else it is not."""
    pieces = _TOKEN.findall(text)
    if scenario == "split_digits":
        pieces = [part for piece in pieces for part in (piece if piece.isdecimal() else [piece])]
    return [
        _build_unsure(piece, scenario) if piece.isdecimal() else Token(piece, 0.0, ((piece, 0.0),)) for piece in pieces
    ]


def _build_unsure(piece: str, scenario: Scenario) -> Token:
    if scenario == "score_not_listed":
        others = [(word, math.log(share)) for word, share in (("null", 0.6), ('"', 0.3), (" 7", 0.05))]
        return Token(piece, -9.0, others)
    if scenario == "split_digits":
        others = [(digit, math.log(0.9 if digit == piece else 0.01)) for digit in "0123456789"]
        return Token(piece, math.log(0.9), sorted(others, key=lambda one: -one[1]))
    shares: dict[str, float] = {}
    for difference, share in SHARES:
        score = str(min(max(int(piece) + difference, 0), 100))
        shares[score] = shares.get(score, 0.0) + share
    shares['"'] = 1 - sum(share for _, share in SHARES)
    listed = sorted(((token, math.log(share)) for token, share in shares.items()), key=lambda one: -one[1])
    return Token(piece, dict(listed).get(piece, -9.0), listed)


def _describe_token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", errors="replace"))}
