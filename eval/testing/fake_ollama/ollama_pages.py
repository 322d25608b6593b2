"""Ollama's own interface: https://docs.ollama.com/api."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from eval.testing.fake_ollama.answers import Token
from eval.testing.fake_ollama.dialect import REFUSALS, Answer

CHAT: Final = "/api/chat"
SHOW: Final = "/api/show"
_DETAILS: Final = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "8.0B",
    "quantization_level": "Q4_0",
}


class OllamaDialect:
    """Lines of JSON; the settings of the model are in the request."""

    content_type = "application/x-ndjson"
    streams = True

    def choose_window(self, body: Mapping[str, Any], context_length: int) -> int:
        """What the request asks for, as far as the model reaches."""
        return min(int((body.get("options") or {}).get("num_ctx", 4096)), context_length)

    def find_refusal(self, answer: Answer, capabilities: tuple[str, ...]) -> tuple[int, str] | None:
        """Unknown models, thinking that the model cannot, and prompts that are too long and not to be cut."""
        body = answer.call.body
        if answer.scenario == "missing_model":
            return 404, f'model "{body["model"]}" not found, try pulling it first'
        if body.get("think") and "thinking" not in capabilities:
            return 400, f'"{body["model"]}" does not support thinking'
        if answer.scenario in REFUSALS:
            return REFUSALS[answer.scenario]
        too_long = answer.call.n_tokens > answer.window and answer.scenario != "truncated"
        return REFUSALS["context_refused"] if too_long and body.get("shift") is False else None

    def build_error(self, text: str) -> dict[str, Any]:
        """A refusal's page."""
        return {"error": text}

    def build_error_line(self, text: str) -> bytes:
        """An error inside a stream."""
        return _encode_line({"error": text})

    def build_noise(self) -> bytes:
        """A line of a stream that cannot be read."""
        return b"this is no JSON\n"

    def stream_lines(self, answer: Answer) -> Iterator[bytes]:
        """A line for each token, then one with the end mark and the counts."""
        while answer.scenario == "trickle":
            yield _encode_line(_build_part(answer, Token(" ", 0.0, ())))
        for token in answer.tokens:
            yield _encode_line(_build_part(answer, token))
        ending = _build_ending(answer) if answer.is_ended else {"done": False}
        yield _encode_line({**_build_head(answer.model), "message": {"role": "assistant", "content": ""}, **ending})

    def build_whole(self, answer: Answer) -> dict[str, Any]:
        """The answer in one piece."""
        text = "".join(token.text for token in answer.tokens)
        logprobs = [entry for token in answer.tokens for entry in answer.describe_logprobs(token)]
        message = {"role": "assistant", "content": "", _choose_kind(answer): text}
        ending = _build_ending(answer) if answer.is_ended else {"done": False}
        return {
            **_build_head(answer.model),
            "message": message,
            **ending,
            **({"logprobs": logprobs} if logprobs else {}),
        }


def list_model(model: str, digest: str) -> dict[str, Any]:
    """A model as /api/tags lists it."""
    return {
        "name": model,
        "model": model,
        "modified_at": "2024-05-20T12:00:00Z",
        "size": 4661224676,
        "digest": digest,
        "details": _DETAILS,
    }


def list_running(model: str, digest: str, *, window: int) -> dict[str, Any]:
    """A loaded model as /api/ps lists it."""
    until = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    return {**list_model(model, digest), "expires_at": until, "size_vram": 0, "context_length": window}


def show_model(context_length: int, capabilities: tuple[str, ...]) -> dict[str, Any]:
    """A model as /api/show describes it."""
    return {
        "template": "{{ .System }} {{ .Prompt }}",
        "parameters": 'stop "<|eot_id|>"',
        "details": _DETAILS,
        "model_info": {"general.architecture": "llama", "llama.context_length": context_length},
        "capabilities": list(capabilities),
        "modified_at": "2024-05-20T12:00:00Z",
    }


def answer_load(model: str) -> dict[str, Any]:
    """The answer to a request without messages, which loads the model."""
    message = {"role": "assistant", "content": ""}
    return {**_build_head(model), "message": message, "done": True, "done_reason": "load"}


def _build_part(answer: Answer, token: Token) -> dict[str, Any]:
    message = {"role": "assistant", "content": "", _choose_kind(answer): token.text}
    logprobs = answer.describe_logprobs(token)
    extra = {"logprobs": logprobs} if logprobs else {}
    return {**_build_head(answer.model), "message": message, "done": False, **extra}


def _build_ending(answer: Answer) -> dict[str, Any]:
    return {
        "done": True,
        "done_reason": answer.reason,
        "total_duration": int(answer.seconds * 1e9) + 2_000_000,
        "load_duration": 1_000_000,
        "prompt_eval_count": answer.n_prompt_tokens,
        "prompt_eval_duration": 1_000_000,
        "eval_count": len(answer.tokens),
        "eval_duration": int(answer.seconds * 1e9),
    }


def _choose_kind(answer: Answer) -> str:
    return "thinking" if answer.scenario == "thinking_only" else "content"


def _build_head(model: str) -> dict[str, Any]:
    return {"model": model, "created_at": datetime.now(UTC).isoformat()}


def _encode_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
