"""From requests to an HTTP response: whole or streamed, for a client that may disconnect at any time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from flows.serving.engine import Call, Engine
from flows.serving.refusal import Refusal
from flows.serving.served import Served
from gptcore.generation import Event, Request, Token

CUT_HEADER = "X-Prompt-Tokens-Cut"
"""Header with the number of prompt tokens that were cut to fit the context, if any were."""


@dataclass
class Page:
    """How a dialect writes the answers to one HTTP request."""

    served: Served
    with_logprobs: bool
    media_type: ClassVar[str]
    """Of a streamed answer."""

    def opening(self) -> Iterator[bytes]:
        """The first lines of a stream."""
        yield from ()

    def piece(self, number: int, event: Event, call: Call) -> Iterator[bytes]:
        """Lines of a stream for an event; ``event.answer`` is set in the last one of a prompt."""
        raise NotImplementedError

    def closing(self, call: Call) -> Iterator[bytes]:
        """The last lines of a stream."""
        del call
        yield from ()

    def failure(self, refusal: Refusal) -> bytes:
        """An error inside a stream."""
        raise NotImplementedError

    def whole(self, call: Call) -> dict[str, Any]:
        """The answers in one piece."""
        raise NotImplementedError

    def empty_answer(self) -> dict[str, Any]:
        """The answer to a request that asks nothing."""
        raise NotImplementedError

    def token_logprobs(self, token: Token) -> dict[str, Any]:
        """A token with its probability and those of its alternatives; both dialects write it alike."""

        def entry(one: int, logprob: float | None) -> dict[str, Any]:
            raw = self.served.text.tokenizer.token_bytes(one)
            return {"token": raw.decode("utf-8", errors="replace"), "logprob": logprob, "bytes": list(raw)}

        return entry(token.id, token.logprob) | {"top_logprobs": [entry(*one) for one in token.alternatives]}


async def respond(
    engine: Engine, requests: list[Request], page: Page, *, http: HttpRequest, stream: bool, n_cut: int = 0
) -> Response:
    """Ask the engine, one request for each choice, and answer the client, who may go away.

    ``n_cut`` tokens were left out of the prompts before.

    Raises:
        Refusal: the engine is busy, or the model failed.
        ConfigError, DataError: a request cannot be answered as it is.
    """
    call = engine.ask(requests)
    call.n_cut += n_cut
    headers = {CUT_HEADER: str(call.n_cut)} if call.n_cut else {}
    if stream:
        return _Stream(engine, call, page, headers)
    try:
        if not await _complete(call, http):
            return Response(status_code=499)  # the client has disconnected
    finally:
        engine.leave(call)
    failed = [answer.error for answer in call.answers.values() if answer.error is not None]
    if failed:
        raise failed[0]
    return JSONResponse(page.whole(call), headers=headers)


async def _complete(call: Call, http: HttpRequest) -> bool:
    """Collect the answers; whether the call has ended before its client disconnected."""

    async def collect() -> None:
        async for _ in call.stream():
            pass

    working, gone = asyncio.ensure_future(collect()), asyncio.ensure_future(_wait_for_disconnect(http.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.done()
    finally:
        working.cancel()
        gone.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Stream(StreamingResponse):
    """Sends events as they come, and cancels the call when the client disconnects."""

    def __init__(self, engine: Engine, call: Call, page: Page, headers: dict[str, str]) -> None:
        super().__init__(self._write(), media_type=page.media_type, headers=headers | {"Cache-Control": "no-cache"})
        self._engine, self._call, self._page = engine, call, page

    async def _write(self) -> Any:
        for line in self._page.opening():
            yield line
        async for number, event in self._call.stream():
            if event.answer is not None and event.answer.error is not None:
                yield self._page.failure(Refusal.of(event.answer.error))
                return
            for line in self._page.piece(number, event, self._call):
                yield line
        for line in self._page.closing(self._call):
            yield line

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the client disconnects."""
        del scope
        sending = asyncio.ensure_future(self.stream_response(send))
        gone = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except OSError:
            pass  # the connection broke while a piece was sent
        finally:
            sending.cancel()
            gone.cancel()
            self._engine.leave(self._call)


def as_json(value: dict[str, Any]) -> bytes:
    """A value as JSON on one line; what is not valid text in it is replaced."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", errors="replace")
