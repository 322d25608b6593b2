"""Ollama's answers: lines of JSON, and the pages about the model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flows.serving.answering import Page, as_json
from flows.serving.engine import Call
from flows.serving.refusal import Refusal
from flows.serving.served import Served
from gptcore.generation import Answer, Event, Token


@dataclass
class OllamaPage(Page):
    """Fields of an answer of /api/generate."""

    asked_name: str
    """The model as the client has named it."""
    with_context: bool = True
    """Whether the answer includes its tokens, as the context of the next request."""
    media_type = "application/x-ndjson"

    def text_fields(self, text: str) -> dict[str, Any]:
        """A piece of the answer."""
        return {"response": text}

    def piece(self, number: int, event: Event, call: Call) -> Iterator[bytes]:
        """A line with the text that can be shown, and at the end one with the reason and the counts."""
        tokens = [event.token] if event.token is not None else []
        if event.text or (tokens and self.with_logprobs):
            yield _line(self._head() | self.text_fields(event.text) | {"done": False} | self._logprobs(tokens))
        if event.answer is not None:
            yield _line(self._head() | self.text_fields("") | self._ending(call, event.answer, number))

    def failure(self, refusal: Refusal) -> bytes:
        """An error inside a stream."""
        return _line(refusal.page("/api/"))

    def whole(self, call: Call) -> dict[str, Any]:
        """The answer in one piece."""
        answer = call.answers[0]
        text = self.text_fields(answer.text)
        return self._head() | text | self._ending(call, answer, 0) | self._logprobs(answer.tokens)

    def empty_answer(self) -> dict[str, Any]:
        """The answer to a request that asks nothing: the model is loaded."""
        return self._head() | self.text_fields("") | {"done": True, "done_reason": "load"}

    def _head(self) -> dict[str, Any]:
        return {"model": self.asked_name, "created_at": datetime.now(UTC).isoformat()}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {"logprobs": [*map(self.token_logprobs, tokens)]} if self.with_logprobs and tokens else {}

    def _ending(self, call: Call, answer: Answer, number: int) -> dict[str, Any]:
        now = time.monotonic()
        first = call.first or now
        page: dict[str, Any] = {
            "done": True,
            "done_reason": answer.finish,
            "total_duration": int((now - call.asked) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": answer.n_prompt,
            "prompt_eval_duration": int((first - call.asked) * 1e9),
            "eval_count": len(answer.tokens),
            "eval_duration": int((now - first) * 1e9),
        }
        if self.with_context:
            page["context"] = [*call.requests[number].prompt[-answer.n_prompt :], *answer.ids]
        return page | ({"prompt_tokens_cut": call.n_cut} if call.n_cut else {})


@dataclass
class OllamaChatPage(OllamaPage):
    """Fields of an answer of /api/chat."""

    with_context: bool = False

    def text_fields(self, text: str) -> dict[str, Any]:
        """A piece of the answer."""
        return {"message": {"role": "assistant", "content": text}}


def tags_entry(served: Served) -> dict[str, Any]:
    """The model as /api/tags lists it."""
    name = served.name if ":" in served.name else f"{served.name}:latest"
    return {
        "name": name,
        "model": name,
        "modified_at": served.modified.isoformat(),
        "size": served.n_bytes,
        "digest": served.digest,
        "details": served.details,
    }


def ps_entry(served: Served) -> dict[str, Any]:
    """The model as /api/ps lists it; it stays as long as the server."""
    far = datetime(9999, 1, 1, tzinfo=UTC).isoformat()
    return tags_entry(served) | {"expires_at": far, "size_vram": 0, "context_length": served.context_length}


def show_page(served: Served) -> dict[str, Any]:
    """The model as /api/show describes it."""
    template, config = served.text.template, served.text.model.config
    prompt = "{{ .Prompt }}" if template is None else template.without_input.replace("{instruction}", "{{ .Prompt }}")
    family = served.family
    return {
        "template": prompt,
        "parameters": "\n".join(f"stop {stop!r}" for stop in served.text.stops),
        "details": served.details,
        "model_info": {
            "general.architecture": family,
            f"{family}.context_length": config.context_length,
            f"{family}.vocab_size": config.vocab_size,
        },
        "capabilities": ["completion"],
        "modified_at": served.modified.isoformat(),
    }


def _line(value: dict[str, Any]) -> bytes:
    return as_json(value) + b"\n"
