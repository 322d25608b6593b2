"""Guard: checks of a request before it is read: host name, token, size of the body."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.serving.config import ServeConfig
from flows.serving.metrics import Metrics
from flows.serving.refusal import Refusal

_OPEN_PATHS = ("/", "/healthz")
"""Paths without a token: the chat page, which asks for one, and the health check."""
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """ASGI middleware; counts every request."""

    def __init__(self, app: ASGIApp, *, config: ServeConfig, metrics: Metrics, paths: frozenset[str]) -> None:
        """Stand before ``app``, whose known ``paths`` are counted by their names."""
        self._app, self._config, self._metrics, self._paths = app, config, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                label = path if path in self._paths else "other"
                self._metrics.requests.labels(label, message["status"]).inc()
            await send(message)

        try:
            self._check(Headers(scope=scope), path)
            body = await self._body(receive, Headers(scope=scope))
        except Refusal as refusal:
            page = JSONResponse(refusal.page(path), status_code=refusal.status, headers=refusal.headers)
            await page(scope, receive, count)
            return
        await self._app(scope, _replay(body, receive), count)

    def _check(self, headers: Headers, path: str) -> None:
        host = headers.get("host", "").rsplit(":", 1)[0] if "]" not in headers.get("host", "") else "[::1]"
        if self._config.is_local and host.lower() not in (*_LOCAL_NAMES, self._config.host):
            # a page of the internet whose name was made to point here would come with its own name
            raise Refusal(f"expected the host name {', '.join(_LOCAL_NAMES)}, got {host!r}", status=403)
        if self._config.token is None or path in _OPEN_PATHS:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not secrets.compare_digest(given.encode(), self._config.token.encode()):
            raise Refusal(
                "a bearer token is needed: send the header Authorization: Bearer TOKEN",
                status=401,
                code="invalid_api_key",
            )

    async def _body(self, receive: Receive, headers: Headers) -> list[Message]:
        """The messages of the body. Raises: Refusal: it is too large."""
        limit, n_bytes, messages = self._config.max_body_bytes, 0, []
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise _too_large(limit)
        while True:
            message = await receive()
            messages.append(message)
            n_bytes += len(message.get("body", b""))
            if n_bytes > limit:
                raise _too_large(limit)
            if not message.get("more_body", False):
                return messages


def _too_large(limit: int) -> Refusal:
    return Refusal(
        f"the body is larger than {limit} bytes; send less, or start the server with a higher limit", status=413
    )


def _replay(messages: list[Message], receive: Receive) -> Receive:
    waiting = list(messages)

    async def again() -> Any:
        return waiting.pop(0) if waiting else await receive()

    return again
