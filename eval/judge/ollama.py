"""The judge's backend on Ollama, through its official client, with what that client leaves open.

- Deadlines: the official client waits for ever by default. Here every wait ends (``eval.judge.transport``).
- No silent truncation: ``shift`` and ``truncate`` are sent off (a server that knows them answers 400 to a prompt that
  is too long), and what the server counted is checked after the call (``eval.judge.window``).
- Neither is an argument of the official ``chat``, so the request is posted with its HTTP client.
- The model is loaded by a request of its own before the first question, so that no answer's time holds it, and the
  window that the server really gave is compared with the one that was asked for.
- Tags move: every few seconds the digest and the server's version are compared with those of the start.

API: https://docs.ollama.com/api
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any, Final

import httpx
import ollama
from ollama._client import _parse_host

from eval.errors import EvalConfigError, JudgeChanged, JudgeUnavailable
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

_SMALL_ANSWER: Final = 10.0
"""Seconds for pages that need no model."""
_NO_ANSWER = (ConnectionError, httpx.HTTPError, ollama.ResponseError, ValueError)


class OllamaTransport(ollama.Client):
    """The official client with deadlines and the page that it does not read."""

    def __init__(self, host: str | None, *, deadlines: Deadlines) -> None:
        """Connect to ``host``, or to ``OLLAMA_HOST``, or to the default; raises EvalConfigError for no address."""
        timeout = httpx.Timeout(min(_SMALL_ANSWER, deadlines.read, deadlines.total), connect=deadlines.connect)
        try:
            address = httpx.URL(_parse_host(host or os.environ.get("OLLAMA_HOST")))
        except (ValueError, httpx.InvalidURL) as error:
            raise EvalConfigError(
                f"expected a server address such as http://127.0.0.1:11434, got {host!r} ({error})"
            ) from error
        super().__init__(str(address), timeout=timeout, **build_connection_settings(address))

    @property
    def http(self) -> httpx.Client:
        """The HTTP client itself."""
        client: httpx.Client = self._client
        return client

    @property
    def url(self) -> str:
        """The server's address, without a slash at its end."""
        return str(self.http.base_url).rstrip("/")

    def read_server_version(self) -> str:
        """The server's version; raises what httpx raises, and ValueError if no Ollama answered."""
        response = self.http.get("/api/version")
        response.raise_for_status()
        found = response.json()
        if not isinstance(found, dict) or not isinstance(found.get("version"), str):
            raise ValueError("the answer to /api/version names no version")
        return str(found["version"])


class OllamaClient:
    """A judge model on an Ollama server."""

    def __init__(
        self,
        judge: JudgeModel,
        *,
        options: Options | None = None,
        deadlines: Deadlines | None = None,
        retry: Retry | None = None,
        logprobs: bool = True,
        verify_every: float = 5.0,
    ) -> None:
        """Ask ``judge``, as ``eval.judge.preflight`` found it.

        ``logprobs`` asks for log-probabilities too; ``verify_every`` is how many seconds pass between two looks at the
        model's digest.
        """
        self._judge = judge
        self._options = options or Options()
        self._deadlines = deadlines or Deadlines()
        self._retry = retry or Retry()
        self._logprobs = logprobs
        self._verify_every = verify_every
        self._transport = OllamaTransport(judge.url, deadlines=self._deadlines)
        self._loading = threading.Lock()
        self._load_seconds: float | None = None
        self._verified = time.monotonic()
        self._description = {
            "backend": "ollama",
            "model": judge.model,
            "model_digest": judge.digest,
            "quantization": judge.quantization,
            "server_version": judge.server_version,
            "client_version": version("ollama"),
            "options": asdict(self._options),
            **self._build_settings(),
        }

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()  # type: ignore[no-untyped-call]

    def describe(self) -> dict[str, Any]:
        """The model's digest, the server's and client's versions, and every setting that can change an answer."""
        return self._description

    def chat(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any],
        identity: Mapping[str, str | int] | None = None,  # noqa: ARG002 - for a store
    ) -> Reply:
        """Ask, sending again what failed in transport.

        Raises CallFailed, JudgeChanged, and on the first call what loading the model raises: JudgeUnavailable,
        EvalConfigError.
        """
        n_bytes = count_prompt_bytes(messages)
        check_before(n_bytes, self._options)
        load_seconds = self._ensure_loaded()
        body = {
            "model": self._judge.model,
            "messages": list(messages),
            "stream": True,
            "format": dict(schema),
            "options": self._description["options"],
            **self._build_settings(),
        }
        reply = call_with_retry(lambda: self._ask_once(body), retry=self._retry)
        check_after(n_bytes, self._options, counted=reply.prompt_tokens)
        if time.monotonic() - self._verified >= self._verify_every:
            self.verify()
        return replace(reply, load_seconds=load_seconds)

    def verify(self) -> None:
        """Raise JudgeChanged if the tag or the server moved; a server that does not answer says nothing."""
        try:
            listed = self._transport.list().models
            server_version = self._transport.read_server_version()
        except _NO_ANSWER:
            return
        digest = next((one.digest for one in listed if one.model == self._judge.model), None)
        if (digest, server_version) != (self._judge.digest, self._judge.server_version):
            raise JudgeChanged(
                f"expected {self._judge.model} at {self._judge.url} with the digest {self._judge.digest[:12]} on server"
                f" {self._judge.server_version}, as the run began, got {(digest or 'gone')[:12]} on server"
                f" {server_version}, so its scores are no longer those of one judge; run again, and what the new one"
                " has not answered is asked again",
                since=self._verified,
            )
        self._verified = time.monotonic()

    def _build_settings(self) -> dict[str, Any]:
        # Models without thinking refuse the setting; models with it think by default.
        thinking = {"think": False} if "thinking" in self._judge.capabilities else {}
        logprobs = {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if self._logprobs else {}
        return {"shift": False, "truncate": False, **thinking, **logprobs}

    def _ensure_loaded(self) -> float:
        """Load the model, once; the seconds it took."""
        with self._loading:
            if self._load_seconds is None:
                self._load_seconds = self._load()
            return self._load_seconds

    def _load(self) -> float:
        longest = self._deadlines.load
        deadlines = replace(self._deadlines, read=longest, idle=longest, total=longest)
        # Without messages the server loads the model and answers nothing; other options would load it again.
        body = {"model": self._judge.model, "messages": [], "options": asdict(self._options), **self._build_settings()}
        started = time.monotonic()
        try:
            call_with_retry(lambda: self._post(body, deadlines=deadlines), retry=self._retry)
        except CallFailed as failure:
            if failure.reason != "timeout":
                raise
            raise JudgeUnavailable(
                f"{self._judge.model} at {self._judge.url} was not loaded within {longest:g} s; see what the server"
                f" says: ollama run {self._judge.model}"
            ) from failure
        seconds = time.monotonic() - started
        self._check_window()
        return seconds

    def _check_window(self) -> None:
        try:
            running = self._transport.ps().models
        except _NO_ANSWER:
            return
        given = next((one.context_length for one in running if one.digest == self._judge.digest), None)
        if given is not None and given < self._options.num_ctx:
            raise EvalConfigError(
                f"expected a window of num_ctx {self._options.num_ctx} tokens for {self._judge.model}, got {given} from"
                f" the server (ollama ps shows it), which would cut longer prompts; set num_ctx to {given} or less, or"
                " free memory and load the model again"
            )

    def _ask_once(self, body: Mapping[str, Any]) -> Reply:
        return self._post(body, deadlines=self._deadlines)

    def _post(self, body: Mapping[str, Any], *, deadlines: Deadlines) -> Reply:
        started = time.monotonic()
        received = post(self._transport.http, "/api/chat", body, deadlines=deadlines)
        return _read_reply(_read_parts(received), seconds=time.monotonic() - started)


def _read_parts(received: HttpResponse) -> list[dict[str, Any]]:
    """The lines of a streamed answer; raises CallFailed for a refusal, an error inside it, and other text."""
    if received.status >= 400:
        raise make_refusal(received)
    parts = []
    try:
        for line in received.content.splitlines():
            part = json.loads(line)
            if part.get("error"):
                raise make_stream_failure(str(part["error"]))
            parts.append(part)
    except (ValueError, AttributeError, RecursionError) as error:
        raise CallFailed("not_done", f"unreadable stream: {error}", transient=True) from error
    return parts


def _read_reply(parts: Sequence[Mapping[str, Any]], *, seconds: float) -> Reply:
    last = parts[-1] if parts else {}
    if last.get("done") is not True:
        raise CallFailed("not_done", "the stream ended without its end mark", transient=True)
    try:
        messages = [part.get("message") or {} for part in parts]
        content = make_encodable("".join(message.get("content") or "" for message in messages))
        return Reply(
            content=content,
            prompt_tokens=read_count(last.get("prompt_eval_count")),
            answer_tokens=read_count(last.get("eval_count")),
            done=True,
            done_reason=last.get("done_reason"),
            # what is loaded again in the middle of a run is in this request's own count
            seconds=max(0.0, seconds - (last.get("load_duration") or 0) / 1e9),
            thinking=make_encodable("".join(message.get("thinking") or "" for message in messages)),
            numbers=find_number_tokens(content, [token for part in parts for token in part.get("logprobs") or ()]),
        )
    except (AttributeError, TypeError) as error:
        raise CallFailed("not_done", f"unreadable stream: {error}", transient=True) from error
