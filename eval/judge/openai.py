"""The judge's backend on any server that speaks OpenAI's chat completions: vLLM, llama.cpp, LM Studio, OpenAI itself.

The same seam, deadlines, checks and failures as on Ollama. What such a server does not have: a digest of the weights
(the model is identified by the address and what ``/models`` says of it), a setting for the window (``num_ctx`` has to
be the one that the server was started with), and a way to load a model.

API: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import httpx

from eval.digest import digest
from eval.errors import EvalConfigError, JudgeChanged, JudgeModelMissing, JudgeUnavailable
from eval.judge.client import CallFailed, Deadlines, JudgeModel, Message, Options, Reply, Retry, call_with_retry
from eval.judge.transport import (
    HttpResponse,
    build_connection_settings,
    make_encodable,
    make_refusal,
    make_stream_failure,
    post,
    read_count,
)
from eval.judge.weighted import TOP_LOGPROBS, find_number_tokens
from eval.judge.window import check_after, check_before, count_prompt_bytes

API_KEY: Final = "OPENAI_API_KEY"
"""Environment variable that holds the key; without it none is sent."""
DEFAULT_URL: Final = "https://api.openai.com/v1"
_VERIFY_EVERY: Final = 60.0
"""Seconds between two looks at the list of models: some servers are paid, and limit requests."""
_FLEETING = ("created", "permission")
"""What servers say anew with each answer."""
_END: Final = "[DONE]"


def connect(url: str | None, *, deadlines: Deadlines) -> httpx.Client:
    """An HTTP client of ``url``, or of ``OPENAI_BASE_URL``, or of OpenAI; raises EvalConfigError for no address."""
    given = url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    try:
        address = httpx.URL(given)
    except httpx.InvalidURL as error:
        raise EvalConfigError(
            f"expected a server address such as http://127.0.0.1:8000/v1, got {given!r} ({error})"
        ) from error
    if address.scheme not in ("http", "https") or not address.host:
        raise EvalConfigError(f"expected a server address such as http://127.0.0.1:8000/v1, got {given!r}")
    key = os.environ.get(API_KEY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(min(10.0, deadlines.read, deadlines.total), connect=deadlines.connect)
    return httpx.Client(base_url=address, timeout=timeout, headers=headers, **build_connection_settings(address))


def find_model(client: httpx.Client, model: str) -> JudgeModel:
    """The model as the server lists it.

    Raises JudgeUnavailable if nothing answers, or not in this protocol; JudgeModelMissing without the model.
    """
    url = str(client.base_url).rstrip("/")
    try:
        response = client.get("models")
        response.raise_for_status()
        entries = {str(one["id"]): dict(one) for one in response.json()["data"]}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise JudgeUnavailable(
            f"{url}/models does not answer as an OpenAI-compatible server does ({' '.join(str(error).split())[:200]});"
            f" check the address (it mostly ends in /v1), and the key in {API_KEY} if the server wants one"
        ) from error
    if model not in entries:
        known = ", ".join(sorted(entries)[:20]) or "none"
        raise JudgeModelMissing(f"the server at {url} has no model {model!r} (it has: {known}); name one of them")
    entry = {name: value for name, value in entries[model].items() if name not in _FLEETING}
    meta = entry.get("meta") if isinstance(entry.get("meta"), dict) else {}
    return JudgeModel(
        url=url,
        model=model,
        digest=digest(entry),
        server_version=response.headers.get("server", "unknown"),
        quantization="unknown",
        parameter_size=str((meta or {}).get("n_params", "unknown")),
        context_length=read_count(entry.get("max_model_len")),  # vLLM's window
        capabilities=(),
    )


class OpenAIClient:
    """A judge model on an OpenAI-compatible server."""

    def __init__(
        self,
        judge: JudgeModel,
        *,
        options: Options | None = None,
        deadlines: Deadlines | None = None,
        retry: Retry | None = None,
        logprobs: bool = True,
    ) -> None:
        """Ask ``judge``, as ``find_model`` found it; ``logprobs`` asks for log-probabilities too."""
        self._judge = judge
        self._options = options or Options()
        self._deadlines = deadlines or Deadlines()
        self._retry = retry or Retry()
        self._logprobs = logprobs
        self._http = connect(judge.url, deadlines=self._deadlines)
        self._verified = time.monotonic()
        self._description = {
            "backend": "openai",
            "url": judge.url,
            "model": judge.model,
            "model_digest": judge.digest,
            "server_version": judge.server_version,
            "options": asdict(self._options),
            **self._build_settings(),
        }

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def describe(self) -> dict[str, Any]:
        """The address, what the server says of the model, and every setting that can change an answer."""
        return self._description

    def chat(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any],
        identity: Mapping[str, str | int] | None = None,  # noqa: ARG002 - for a store
    ) -> Reply:
        """Ask, sending again what failed in transport; raises CallFailed and JudgeChanged."""
        n_bytes = count_prompt_bytes(messages)
        check_before(n_bytes, self._options)
        body = {
            "model": self._judge.model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            "seed": self._options.seed,
            "temperature": self._options.temperature,
            "max_tokens": self._options.num_predict,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "verdict", "strict": True, "schema": dict(schema)},
            },
            **self._build_settings(),
        }
        reply = call_with_retry(lambda: self._ask_once(body), retry=self._retry)
        check_after(n_bytes, self._options, counted=reply.prompt_tokens)
        if time.monotonic() - self._verified >= _VERIFY_EVERY:
            self.verify()
        return reply

    def verify(self) -> None:
        """Raise JudgeChanged if the server says something else of the model; if it does not answer, say nothing."""
        try:
            found = find_model(self._http, self._judge.model)
        except JudgeModelMissing:
            found = replace(self._judge, digest="gone")
        except JudgeUnavailable:
            return
        if (found.digest, found.server_version) != (self._judge.digest, self._judge.server_version):
            raise JudgeChanged(
                f"expected {self._judge.model} at {self._judge.url} with the digest {self._judge.digest[:12]} of the"
                f" run's start, got {found.digest[:12]}, so its scores may no longer be those of one judge; run again,"
                " and what the new one has not answered is asked again",
                since=self._verified,
            )
        self._verified = time.monotonic()

    def _build_settings(self) -> dict[str, Any]:
        return {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if self._logprobs else {}

    def _ask_once(self, body: Mapping[str, Any]) -> Reply:
        started = time.monotonic()
        received = post(self._http, "chat/completions", body, deadlines=self._deadlines)
        if received.status >= 400:
            raise make_refusal(received)
        return _read_reply(received, seconds=time.monotonic() - started)


def _read_reply(received: HttpResponse, *, seconds: float) -> Reply:
    """The answer in a stream of server-sent events; raises CallFailed for one that is not whole."""
    try:
        chunks, ended = _read_chunks(received)
        choices = [choice for chunk in chunks for choice in chunk.get("choices") or ()]
        deltas = [choice.get("delta") or {} for choice in choices]
        reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
        tokens = [token for choice in choices for token in (choice.get("logprobs") or {}).get("content") or ()]
        usage: Mapping[str, Any] = next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), {})
        content = make_encodable("".join(delta.get("content") or "" for delta in deltas))
        thinking = make_encodable("".join(delta.get("reasoning_content") or "" for delta in deltas))
        if not ended or not reasons:
            raise CallFailed("not_done", "the stream ended without its end mark", transient=True)
        return Reply(
            content=content,
            prompt_tokens=read_count(usage.get("prompt_tokens")),
            answer_tokens=read_count(usage.get("completion_tokens")),
            done=True,
            done_reason=str(reasons[-1]),
            seconds=seconds,
            thinking=thinking,
            numbers=find_number_tokens(content, tokens),
        )
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise CallFailed("not_done", f"unreadable stream: {error}", transient=True) from error


def _read_chunks(received: HttpResponse) -> tuple[list[dict[str, Any]], bool]:
    """What the events hold, and whether the last one said that it was the last."""
    chunks: list[dict[str, Any]] = []
    for line in received.content.splitlines():
        field, _, value = line.decode("utf-8", errors="replace").partition(":")
        if field != "data":
            continue
        if value.strip() == _END:
            return chunks, True
        chunk = json.loads(value)
        if chunk.get("error"):
            error = chunk["error"]
            raise make_stream_failure(str(error.get("message") if isinstance(error, dict) else error))
        chunks.append(chunk)
    return chunks, False
