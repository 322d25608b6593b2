"""OpenAI's answers, whole and streamed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flows.serving.answering import Page, as_json
from flows.serving.engine import Call
from flows.serving.refusal import Refusal
from flows.serving.served import Served
from gptcore.generation import Answer, Event, Token


@dataclass
class OpenAIPage(Page):
    """What chat and completion answers have in common."""

    n_choices: int
    """Answers to each prompt."""
    with_usage: bool = False
    """Whether a stream ends with the counts."""
    created: int = field(default_factory=lambda: int(time.time()))
    code: str = field(default_factory=lambda: uuid.uuid4().hex)
    media_type = "text/event-stream"
    prefix: ClassVar[str] = "cmpl"
    kind: ClassVar[str] = "text_completion"
    streamed_kind: ClassVar[str] = "text_completion"

    def choice(self, number: int, text: str, tokens: Sequence[Token], finish: str | None) -> dict[str, Any]:
        """One choice, or a piece of it."""
        logprobs = self._legacy_logprobs(tokens) if self.with_logprobs else None
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def piece(self, number: int, event: Event, call: Call) -> Iterator[bytes]:
        """An event with the text that can be shown; in the last one the reason of the end."""
        del call
        tokens = [event.token] if event.token is not None else []
        finish = None if event.answer is None else event.answer.finish
        if event.text or finish or (tokens and self.with_logprobs):
            yield _event(self._chunk([self.choice(number, event.text, tokens, finish)]))

    def closing(self, call: Call) -> Iterator[bytes]:
        """The counts, if they were asked for, and the end mark."""
        if self.with_usage:
            yield _event(self._chunk([]) | {"usage": self._usage(call)})
        yield b"data: [DONE]\n\n"

    def failure(self, refusal: Refusal) -> bytes:
        """An error inside a stream."""
        return _event(refusal.page("/v1/"))

    def whole(self, call: Call) -> dict[str, Any]:
        """All choices and the counts."""
        choices = [self.whole_choice(number, call.answers[number]) for number in range(len(call.requests))]
        page = self._chunk(choices) | {"object": self.kind, "usage": self._usage(call)}
        return page | ({"gptworks": {"prompt_tokens_cut": call.n_cut}} if call.n_cut else {})

    def whole_choice(self, number: int, answer: Answer) -> dict[str, Any]:
        """A whole choice."""
        return self.choice(number, answer.text, answer.tokens, answer.finish)

    def _legacy_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        named = [self.token_logprobs(token) for token in tokens]
        return {
            "tokens": [one["token"] for one in named],
            "token_logprobs": [one["logprob"] for one in named],
            "top_logprobs": [{each["token"]: each["logprob"] for each in one["top_logprobs"]} for one in named],
        }

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{self.code}",
            "object": self.streamed_kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": f"fp_{self.served.digest[:12]}",
            "choices": choices,
        }

    def _usage(self, call: Call) -> dict[str, int]:
        n_prompt = sum(call.answers[number].n_prompt for number in range(0, len(call.requests), self.n_choices))
        n_new = sum(len(answer.tokens) for answer in call.answers.values())
        return {"prompt_tokens": n_prompt, "completion_tokens": n_new, "total_tokens": n_prompt + n_new}


@dataclass
class ChatPage(OpenAIPage):
    """The answers of /v1/chat/completions."""

    prefix = "chatcmpl"
    kind = "chat.completion"
    streamed_kind = "chat.completion.chunk"

    def opening(self) -> Iterator[bytes]:
        """Who speaks."""
        delta = {"role": "assistant", "content": ""}
        first = [{"index": i, "delta": delta, "logprobs": None, "finish_reason": None} for i in range(self.n_choices)]
        yield _event(self._chunk(first))

    def choice(self, number: int, text: str, tokens: Sequence[Token], finish: str | None) -> dict[str, Any]:
        """A piece of a choice."""
        content = [self.token_logprobs(token) for token in tokens]
        logprobs = {"content": content} if self.with_logprobs and tokens else None
        delta = {"content": text} if text else {}
        return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def whole_choice(self, number: int, answer: Answer) -> dict[str, Any]:
        """A whole choice."""
        choice = self.choice(number, answer.text, answer.tokens, answer.finish)
        del choice["delta"]
        return choice | {"message": {"role": "assistant", "content": answer.text, "refusal": None}}


def model_page(served: Served) -> dict[str, Any]:
    """One model; ``root`` names the weights, as vLLM does."""
    return {
        "id": served.name,
        "object": "model",
        "created": int(served.modified.timestamp()),
        "owned_by": "gptworks",
        "root": served.digest,
        "max_model_len": served.context_length,
    }


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + as_json(value) + b"\n\n"
