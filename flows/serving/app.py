"""The application: every path, and what an error becomes."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from flows.serving import ollama_forms, ollama_pages, openai_forms, openai_pages
from flows.serving.answering import respond
from flows.serving.config import ServeConfig
from flows.serving.engine import Engine
from flows.serving.guard import Guard
from flows.serving.metrics import Metrics
from flows.serving.refusal import Refusal
from flows.serving.served import Served
from gptcore.errors import GptcoreError
from gptcore.generation import Generator

Form = TypeVar("Form", bound=BaseModel)
Asked = openai_forms.ChatAsked | openai_forms.CompletionAsked | ollama_forms.GenerateAsked | ollama_forms.ChatAsked
_FORMS: dict[str, type[Asked]] = {
    "/v1/chat/completions": openai_forms.ChatAsked,
    "/v1/completions": openai_forms.CompletionAsked,
    "/api/generate": ollama_forms.GenerateAsked,
    "/api/chat": ollama_forms.ChatAsked,
}
"""Path -> what its requests hold, which says how they are answered."""


def build_app(served: Served, config: ServeConfig) -> FastAPI:
    """The application of one model; its engine lives as long as its lifespan.

    Raises:
        ConfigError, TokenizerMismatch: as of ``Generator``.
    """
    metrics = Metrics()
    generator = Generator(
        served.text.model,
        tokenizer=served.text.tokenizer,
        slots=config.slots,
        prefill_chunk=config.prefill_chunk,
        exact=config.exact,
    )
    engine = Engine(generator, max_queue=config.max_queue, metrics=metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        engine.start()
        yield
        await engine.close()

    app = FastAPI(title="gptworks", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _add(app, "POST", {path: _answering(form, served, engine, config) for path, form in _FORMS.items()})
    _add_openai(app, served)
    _add_ollama(app, served)
    _add_own(app, metrics)
    for kind in (Refusal, GptcoreError, ValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _refuse)
    paths = frozenset(path for route in app.routes if (path := getattr(route, "path", None)))
    app.add_middleware(Guard, config=config, metrics=metrics, paths=paths)
    return app


def _answering(
    form: type[Asked], served: Served, engine: Engine, config: ServeConfig
) -> Callable[[Request], Awaitable[Response]]:
    """What answers the requests of one form."""

    async def answer(http: Request) -> Response:
        asked = await _read(http, form)
        served.check_name(asked.model)
        page = asked.page(served)
        requests, n_cut = asked.requests(served)
        if not requests:
            return JSONResponse(page.empty_answer())
        if len(requests) > config.max_choices:
            raise Refusal(f"expected at most {config.max_choices} answers at once, got {len(requests)}", param="n")
        return await respond(engine, requests, page, http=http, stream=asked.stream, n_cut=n_cut)

    return answer


def _add_openai(app: FastAPI, served: Served) -> None:
    async def model(name: str) -> dict[str, Any]:
        served.check_name(name)
        return openai_pages.model_page(served)

    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [openai_pages.model_page(served)]}

    _add(app, "GET", {"/v1/models": models, "/v1/models/{name:path}": model})


def _add_ollama(app: FastAPI, served: Served) -> None:
    async def show(http: Request) -> dict[str, Any]:
        asked = await _read(http, ollama_forms.Named)
        served.check_name(asked.model or asked.name)
        return ollama_pages.show_page(served)

    async def tags() -> dict[str, Any]:
        return {"models": [ollama_pages.tags_entry(served)]}

    async def running() -> dict[str, Any]:
        return {"models": [ollama_pages.ps_entry(served)]}

    async def version() -> dict[str, Any]:
        return {"version": importlib.metadata.version("gptworks")}

    _add(app, "POST", {"/api/show": show})
    _add(app, "GET", {"/api/tags": tags, "/api/ps": running, "/api/version": version})


def _add_own(app: FastAPI, metrics: Metrics) -> None:
    async def page() -> HTMLResponse:
        return HTMLResponse(_chat_page(), headers={"Content-Security-Policy": _POLICY, "X-Frame-Options": "DENY"})

    async def health() -> dict[str, str]:
        return {"status": "ok"}

    async def counts() -> PlainTextResponse:
        return PlainTextResponse(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    _add(app, "GET", {"/": page, "/healthz": health, "/metrics": counts})
    app.add_api_route(
        "/", page, methods=["HEAD"], response_model=None
    )  # Ollama's own client checks by this whether a server is there


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


@cache
def _chat_page() -> str:
    return files("flows.serving").joinpath("templates/chat.html").read_text(encoding="utf-8")


def _add(app: FastAPI, method: str, routes: dict[str, Callable[..., Awaitable[Any]]]) -> None:
    for path, answer in routes.items():
        app.add_api_route(path, answer, methods=[method], response_model=None)


async def _read(http: Request, form: type[Form]) -> Form:
    try:
        values = json.loads(await http.body())
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the body is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise Refusal("the body must be a JSON object")
    return form.model_validate(values)


async def _refuse(http: Request, error: Exception) -> Response:
    refusal = Refusal.of(error)
    return JSONResponse(refusal.page(http.url.path), status_code=refusal.status, headers=refusal.headers)
