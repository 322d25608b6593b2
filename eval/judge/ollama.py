"""The judge's backend on Ollama, through its official client, with what that client leaves open.

- Deadlines: the official client waits for ever by default. Here connecting, each wait for bytes and the whole call end.
- No silent truncation: a server cuts a prompt that is too long from the front, to half its window, with status 200.
  A prompt shorter in bytes than the window cannot be cut; a longer one is sent with ``shift`` and ``truncate`` off
  (the server then answers 400 where it knows them) and its counted tokens are checked after the call.
- ``shift`` and ``truncate`` are no arguments of the official ``chat``, so the request is posted with its HTTP client.

API: https://docs.ollama.com/api
"""

from __future__ import annotations

import json
import os
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Final

import httpx
import ollama
from ollama._client import _parse_host

from eval.errors import EvalConfigError
from eval.judge.client import CallFailed, JudgeModel, Message, Reply, Retry, retried

_TEMPLATE_TOKENS: Final = 64
"""More than the chat template adds around three or four messages."""
_MOST_BYTES_A_TOKEN: Final = 8
"""A prompt counted at fewer than one token for so many bytes has lost a part (English prose has about 4.5)."""
_DEFAULT_NUM_KEEP: Final = 4
_CONTEXT_REFUSAL = re.compile(r"context (?:length|window|size)", re.IGNORECASE)
_LOOPBACK: Final = {"127.0.0.1", "::1", "localhost", "0.0.0.0"}


@dataclass(frozen=True)
class Options:
    """What the model is run with; all of it is sent inside ``options``, where alone the server reads it."""

    seed: int = 123
    temperature: float = 0.0
    num_ctx: int = 8192
    """Tokens of the window; constant in a run, since another value reloads the model."""
    num_predict: int = 256
    """Tokens the judge may write."""

    def __post_init__(self) -> None:
        """Raise EvalConfigError for a window without room for a prompt."""
        if self.num_predict < 1 or self.num_ctx <= self.num_predict + _TEMPLATE_TOKENS:
            raise EvalConfigError(
                f"num_ctx {self.num_ctx} leaves no room for a prompt beside num_predict {self.num_predict};"
                " raise num_ctx or lower num_predict"
            )


@dataclass(frozen=True)
class Deadlines:
    """Seconds after which a call is given up."""

    connect: float = 5.0
    read: float = 120.0
    """The longest wait for the next bytes; the first of them come after the model is loaded and the prompt read."""
    total: float = 300.0
    """The whole call. Looked at whenever bytes come, so a call ends at the latest one ``read`` after it."""

    def __post_init__(self) -> None:
        """Raise EvalConfigError unless all are above 0."""
        for name, seconds in asdict(self).items():
            if not seconds > 0:
                raise EvalConfigError(f"deadline {name} is {seconds} seconds; it must be above 0")


class DeadlinePassed(Exception):
    """The whole call took longer than its deadline."""


class OllamaTransport(ollama.Client):
    """The official client with deadlines and two requests that it does not offer."""

    def __init__(self, host: str | None, *, deadlines: Deadlines) -> None:
        """Connect to ``host``, or to ``OLLAMA_HOST``, or to the default; raises EvalConfigError for no address."""
        longest = min(deadlines.read, deadlines.total)
        timeout = httpx.Timeout(connect=deadlines.connect, read=longest, write=longest, pool=longest)
        try:
            address = httpx.URL(_parse_host(host or os.environ.get("OLLAMA_HOST")))
        except (ValueError, httpx.InvalidURL) as error:
            raise EvalConfigError(f"{host!r} is no server address ({error}); write http://127.0.0.1:11434") from error
        # Plain http needs no certificates; reading them takes longer than many a call. A redirect to https then fails.
        verify = address.scheme == "https" or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # A proxy from the environment cannot reach this machine's own server.
        trust_env = address.host not in _LOOPBACK
        super().__init__(str(address), timeout=timeout, trust_env=trust_env, verify=verify)

    @property
    def url(self) -> str:
        """The server's address, without a slash at its end."""
        return str(self._client.base_url).rstrip("/")

    def server_version(self) -> str:
        """The server's version; raises what httpx raises, and ValueError if no Ollama answered."""
        response = self._client.get("/api/version")
        response.raise_for_status()
        found = response.json()
        if not isinstance(found, dict) or not isinstance(found.get("version"), str):
            raise ValueError("the answer to /api/version names no version")
        return str(found["version"])

    def post_chat(self, body: Mapping[str, Any], *, deadline: float) -> list[ollama.ChatResponse]:
        """The parts of a streamed chat answer, all read before the monotonic instant ``deadline``.

        Raises ollama.ResponseError (with status 200 if the error came inside the stream), DeadlinePassed,
        httpx.RequestError, and ValueError for a line that is no chat answer.
        """
        received = bytearray()
        with self._client.stream("POST", "/api/chat", json=dict(body)) as response:
            for chunk in response.iter_bytes():
                received += chunk
                if time.monotonic() > deadline:
                    raise DeadlinePassed
        if response.status_code >= 400:
            raise ollama.ResponseError(received.decode("utf-8", errors="replace"), response.status_code)
        parts = []
        for line in received.splitlines():
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError(f"a {type(value).__name__} in the stream, not an object")
            if value.get("error"):
                raise ollama.ResponseError(str(value["error"]), response.status_code)
            parts.append(ollama.ChatResponse(**value))
        return parts


class OllamaClient:
    """A judge model on an Ollama server."""

    def __init__(
        self,
        judge: JudgeModel,
        *,
        options: Options | None = None,
        deadlines: Deadlines | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Ask ``judge``, as ``eval.judge.preflight`` found it."""
        self._judge = judge
        self._options = options or Options()
        self._deadlines = deadlines or Deadlines()
        self._retry = retry or Retry()
        self._transport = OllamaTransport(judge.url, deadlines=self._deadlines)
        self._client_version = version("ollama")

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()  # type: ignore[no-untyped-call]

    def describe(self) -> dict[str, Any]:
        """The model's digest, the server's and client's versions, and every setting that can change an answer."""
        return {
            "backend": "ollama",
            "model": self._judge.model,
            "model_digest": self._judge.digest,
            "quantization": self._judge.quantization,
            "server_version": self._judge.server_version,
            "client_version": self._client_version,
            "options": asdict(self._options),
            **self._settings(),
        }

    def chat(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any],
        identity: Mapping[str, str | int] | None = None,  # noqa: ARG002 - for a store
    ) -> Reply:
        """Ask, sending again what failed in transport; raises CallFailed."""
        n_bytes = sum(len(message["content"].encode("utf-8")) for message in messages)
        self._refuse_impossible(n_bytes)
        body = {
            "model": self._judge.model,
            "messages": list(messages),
            "stream": True,
            "format": dict(schema),
            "options": asdict(self._options),
            **self._settings(),
        }
        reply = retried(lambda: self._once(body), retry=self._retry)
        self._refuse_truncated(n_bytes, counted=reply.prompt_tokens)
        return reply

    def _settings(self) -> dict[str, Any]:
        # Models without thinking refuse the setting; models with it think unless told not to.
        thinking = {"think": False} if "thinking" in self._judge.capabilities else {}
        return {"shift": False, "truncate": False, **thinking}

    def _once(self, body: Mapping[str, Any]) -> Reply:
        started = time.monotonic()
        total = self._deadlines.total
        try:
            parts = self._transport.post_chat(body, deadline=started + total)
        except ollama.ResponseError as error:
            raise _refused(error) from error
        except DeadlinePassed as error:
            raise CallFailed("timeout", f"no whole answer within {total:g} s", transient=False) from error
        except httpx.ConnectTimeout as error:
            detail = f"{self._judge.url} did not take the connection within {self._deadlines.connect:g} s"
            raise CallFailed("connection", detail, transient=True) from error
        except httpx.TimeoutException as error:
            detail = f"nothing came for {min(self._deadlines.read, total):g} s"
            raise CallFailed("timeout", detail, transient=False) from error
        except httpx.RequestError as error:
            raise CallFailed("connection", f"{self._judge.url}: {error}", transient=True) from error
        except ValueError as error:
            raise CallFailed("not_done", f"unreadable stream: {error}", transient=True) from error
        return _reply(parts, seconds=time.monotonic() - started)

    def _cannot_be_cut(self, n_bytes: int) -> bool:
        # A token is at least one byte, so bytes bound tokens from above.
        return n_bytes + _TEMPLATE_TOKENS + self._options.num_predict < self._options.num_ctx

    def _refuse_impossible(self, n_bytes: int) -> None:
        if n_bytes > _MOST_BYTES_A_TOKEN * self._options.num_ctx:
            detail = f"a prompt of {n_bytes} bytes cannot fit num_ctx {self._options.num_ctx}; not sent"
            raise CallFailed("truncated", detail, transient=False)

    def _refuse_truncated(self, n_bytes: int, *, counted: int | None) -> None:
        # Not asked of prompts that cannot have been cut: some servers count only the part that was not in their
        # cache (ollama 0.30.0, until its pull request 16428), which looks the same.
        if self._cannot_be_cut(n_bytes):
            return
        window = self._options.num_ctx
        half = window - (window - _DEFAULT_NUM_KEEP - 1) // 2
        if counted is None or counted * _MOST_BYTES_A_TOKEN <= n_bytes or abs(counted - half) <= 2:
            detail = (
                f"the server counted {counted} tokens for a prompt of {n_bytes} bytes in a window of {window};"
                " raise num_ctx"
            )
            raise CallFailed("truncated", detail, transient=False)


def _refused(error: ollama.ResponseError) -> CallFailed:
    status, text = error.status_code, str(error.error)
    if status == 400 and _CONTEXT_REFUSAL.search(text):
        return CallFailed("truncated", text, transient=False)
    if status < 400:
        return CallFailed("not_done", f"the server failed in the middle of the answer: {text}", transient=True)
    if status < 500:
        return CallFailed("http_4xx", f"{status}: {text}", transient=status == 429)
    return CallFailed("http_5xx", f"{status}: {text}", transient=True)


def _reply(parts: Sequence[ollama.ChatResponse], *, seconds: float) -> Reply:
    last = parts[-1] if parts else None
    if last is None or not last.done:
        raise CallFailed("not_done", "the stream ended without its end mark", transient=True)
    return Reply(
        content=_encodable("".join(part.message.content or "" for part in parts)),
        prompt_tokens=last.prompt_eval_count,
        answer_tokens=last.eval_count,
        done=True,
        done_reason=last.done_reason,
        seconds=seconds,
        load_seconds=(last.load_duration or 0) / 1e9,
        thinking=_encodable("".join(part.message.thinking or "" for part in parts)),
    )


def _encodable(text: str) -> str:
    # JSON can escape half a surrogate pair, which no file could take.
    return text.encode("utf-8", errors="replace").decode("utf-8")
