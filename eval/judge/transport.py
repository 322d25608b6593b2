"""One streamed HTTP request that cannot hang: every wait has a deadline, every failure a type."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from eval.judge.client import CallFailed, Deadlines

_CONTEXT_REFUSAL = re.compile(r"context[ _](?:length|window|size)", re.IGNORECASE)
_LOOPBACK: Final = {"127.0.0.1", "::1", "localhost", "0.0.0.0"}


@dataclass(frozen=True)
class HttpResponse:
    """A whole answer."""

    status: int
    content: bytes

    @property
    def text(self) -> str:
        """The answer as text; bytes that are not UTF-8 are replaced."""
        return self.content.decode("utf-8", errors="replace")


def build_connection_settings(address: httpx.URL) -> dict[str, Any]:
    """What a client of ``address`` is made with, as keyword arguments of ``httpx.Client``."""
    # Plain http needs no certificates; reading them takes longer than many a call. A redirect to https then fails.
    verify = address.scheme == "https" or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # A proxy from the environment cannot reach this machine's own server.
    return {"verify": verify, "trust_env": address.host not in _LOOPBACK}


def post(client: httpx.Client, path: str, body: Mapping[str, Any], *, deadlines: Deadlines) -> HttpResponse:
    """Send ``body`` as JSON and read the whole answer, whatever its status.

    Raises CallFailed: ``timeout`` if a deadline passed, ``connection`` if none came about or it broke.
    """
    url, total = str(client.base_url).rstrip("/"), deadlines.total
    read, idle = min(deadlines.read, total), min(deadlines.idle, total)
    timeouts = {"connect": deadlines.connect, "read": read, "write": read, "pool": read}
    started, received = time.monotonic(), bytearray()
    request = client.build_request("POST", path, json=dict(body), extensions={"timeout": timeouts})
    try:
        response = client.send(request, stream=True)
        # httpx looks the time limit up once for the head of an answer and once for its body, so this one is the body's.
        timeouts["read"] = idle
        try:
            for chunk in response.iter_bytes():
                received += chunk
                if time.monotonic() - started > total:
                    raise CallFailed("timeout", f"no whole answer within {total:g} s", transient=False)
        finally:
            response.close()
    except httpx.ConnectTimeout as error:
        detail = f"{url} did not take the connection within {deadlines.connect:g} s"
        raise CallFailed("connection", detail, transient=True) from error
    except httpx.TimeoutException as error:
        silence = f"nothing more came for {idle:g} s" if received else f"nothing came for {timeouts['read']:g} s"
        raise CallFailed("timeout", silence, transient=False) from error
    except httpx.RequestError as error:
        raise CallFailed("connection", f"{url}: {error or type(error).__name__}", transient=True) from error
    return HttpResponse(response.status_code, bytes(received))


def make_refusal(received: HttpResponse) -> CallFailed:
    """The failure that an answer with a status of 400 or more is."""
    status, text = received.status, _read_error_text(received.text)
    if status == 400 and _CONTEXT_REFUSAL.search(text):
        return CallFailed("truncated", text, transient=False)
    if status < 500:
        return CallFailed("http_4xx", f"{status}: {text}", transient=status in (408, 429))
    return CallFailed("http_5xx", f"{status}: {text}", transient=True)


def make_stream_failure(text: str) -> CallFailed:
    """The failure that an error inside an answer is, which has begun with status 200."""
    return CallFailed("not_done", f"the server failed in the middle of the answer: {text}", transient=True)


def _read_error_text(text: str) -> str:
    # Ollama gives {"error": text}, OpenAI {"error": {"message": text}}, proxies pages of their own.
    try:
        error = json.loads(text)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return text[:500]


def read_count(value: object) -> int | None:
    """A number of tokens as a server reported it; None for anything else."""
    return value if type(value) is int else None


def make_encodable(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON can escape and no file can take."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
