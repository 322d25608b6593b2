"""Dialect: what differs between the two ways in which the fake server can be asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from eval.testing.fake_ollama.answers import ChatCall, Token
from eval.testing.fake_ollama.scenarios import Scenario

NUM_KEEP: Final = 5
"""Tokens of the front that survive when a prompt is cut to half the window."""
REFUSALS: Final[dict[Scenario, tuple[int, str]]] = {
    "busy": (503, "server busy, please try again.  maximum pending requests exceeded"),
    "server_error": (500, "llama runner process has terminated: exit status 2"),
    "context_refused": (
        400,
        "the prompt is longer than the context length currently available to the model; increase num_ctx",
    ),
}


@dataclass(frozen=True)
class Answer:
    """An answer to send: the model's tokens and the circumstances."""

    call: ChatCall
    scenario: Scenario
    tokens: list[Token]
    model: str
    window: int
    """Tokens."""
    seconds: float

    @property
    def is_cut(self) -> bool:
        """Whether the prompt lost a part."""
        return self.scenario == "truncated" or self.call.n_tokens > self.window

    @property
    def n_prompt_tokens(self) -> int:
        """What the server counts of the prompt."""
        return self.window - (self.window - NUM_KEEP) // 2 if self.is_cut else self.call.n_tokens

    @property
    def is_ended(self) -> bool:
        """Whether the answer gets its end mark."""
        return self.scenario != "not_done"

    @property
    def reason(self) -> str:
        """Why it ends."""
        return "length" if self.scenario == "length" else "stop"

    def describe_logprobs(self, token: Token) -> list[dict[str, Any]]:
        """The log-probabilities of a token; empty unless they were asked for and are known."""
        if not self.call.body.get("logprobs") or self.scenario == "no_logprobs":
            return []
        return [token.describe(int(self.call.body.get("top_logprobs") or 0))]


class Dialect(Protocol):
    """How requests are answered."""

    content_type: str
    """Of a streamed answer."""
    streams: bool
    """Whether answers are streamed unless the request says."""

    def choose_window(self, body: Mapping[str, Any], context_length: int) -> int:
        """Tokens of the window for a request."""
        ...

    def find_refusal(self, answer: Answer, capabilities: tuple[str, ...]) -> tuple[int, str] | None:
        """Status and words if the request is refused."""
        ...

    def build_error(self, text: str) -> dict[str, Any]:
        """A refusal's page."""
        ...

    def build_error_line(self, text: str) -> bytes:
        """An error inside a stream."""
        ...

    def build_noise(self) -> bytes:
        """A line of a stream that cannot be read."""
        ...

    def stream_lines(self, answer: Answer) -> Iterator[bytes]:
        """A streamed answer; it never ends in the scenario ``trickle``."""
        ...

    def build_whole(self, answer: Answer) -> dict[str, Any]:
        """The answer in one piece."""
        ...
