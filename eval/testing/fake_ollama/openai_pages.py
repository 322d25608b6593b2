"""The interface that Ollama and others share with OpenAI: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from eval.testing.fake_ollama.answers import Token
from eval.testing.fake_ollama.dialect import REFUSALS, Answer

CHAT: Final = "/v1/chat/completions"


class OpenAIDialect:
    """Server-sent events; the window is the server's own."""

    content_type = "text/event-stream"
    streams = False

    def choose_window(self, body: Mapping[str, Any], context_length: int) -> int:  # noqa: ARG002 - the other dialect's
        """What the server was started with."""
        return context_length

    def find_refusal(self, answer: Answer, capabilities: tuple[str, ...]) -> tuple[int, str] | None:  # noqa: ARG002
        """Unknown models, and prompts that are too long."""
        if answer.scenario == "missing_model":
            return 404, f'model "{answer.call.body["model"]}" not found, try pulling it first'
        if answer.scenario not in (*REFUSALS, "truncated") and answer.call.n_tokens > answer.window:
            words = f"This model's maximum context length is {answer.window} tokens."
            return 400, f"{words} However, your messages resulted in {answer.call.n_tokens} tokens."
        return REFUSALS.get(answer.scenario)

    def build_error(self, text: str) -> dict[str, Any]:
        """A refusal's page."""
        return {"error": {"message": text, "type": "api_error", "param": None, "code": None}}

    def build_error_line(self, text: str) -> bytes:
        """An error inside a stream."""
        return _encode_event(self.build_error(text))

    def build_noise(self) -> bytes:
        """A line of a stream that cannot be read."""
        return b"data: this is no JSON\n\n"

    def stream_lines(self, answer: Answer) -> Iterator[bytes]:
        """An event for each token, one with the reason of the end, one with the counts, and the end mark."""
        while answer.scenario == "trickle":
            yield _encode_event(_build_chunk(answer, [_build_choice(answer, Token(" ", 0.0, ()))]))
        for token in answer.tokens:
            yield _encode_event(_build_chunk(answer, [_build_choice(answer, token)]))
        if not answer.is_ended:
            return
        yield _encode_event(_build_chunk(answer, [{"index": 0, "delta": {}, "finish_reason": answer.reason}]))
        if (answer.call.body.get("stream_options") or {}).get("include_usage"):
            yield _encode_event({**_build_chunk(answer, []), "usage": _count_usage(answer)})
        yield b"data: [DONE]\n\n"

    def build_whole(self, answer: Answer) -> dict[str, Any]:
        """The answer in one piece."""
        text = "".join(token.text for token in answer.tokens)
        logprobs = [entry for token in answer.tokens for entry in answer.describe_logprobs(token)]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "", _choose_kind(answer): text},
            "finish_reason": answer.reason,
            "logprobs": {"content": logprobs} if logprobs else None,
        }
        return {**_build_chunk(answer, [choice]), "object": "chat.completion", "usage": _count_usage(answer)}


def list_models(digests: Mapping[str, str]) -> dict[str, Any]:
    """The page of models, by tag; ``root`` names the weights, as vLLM does."""
    known = {"object": "model", "created": int(time.time()), "owned_by": "library"}
    return {"object": "list", "data": [{"id": tag, **known, "root": digest} for tag, digest in digests.items()]}


def _build_chunk(answer: Answer, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.call.index}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": answer.model,
        "system_fingerprint": "fp_ollama",
        "choices": choices,
    }


def _build_choice(answer: Answer, token: Token) -> dict[str, Any]:
    logprobs = answer.describe_logprobs(token)
    return {
        "index": 0,
        "delta": {"role": "assistant", "content": "", _choose_kind(answer): token.text},
        "finish_reason": None,
        "logprobs": {"content": logprobs} if logprobs else None,
    }


def _count_usage(answer: Answer) -> dict[str, int]:
    n_prompt, n_answer = answer.n_prompt_tokens, len(answer.tokens)
    return {"prompt_tokens": n_prompt, "completion_tokens": n_answer, "total_tokens": n_prompt + n_answer}


def _choose_kind(answer: Answer) -> str:
    return "reasoning_content" if answer.scenario == "thinking_only" else "content"


def _encode_event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
