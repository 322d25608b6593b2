"""Before a run: does the judge's server answer, does it have the model, and does the model fit the settings?

Each error ends with the command or the option that mends it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import httpx
import ollama

from eval.errors import EvalConfigError, JudgeChanged, JudgeModelMissing, JudgeUnavailable
from eval.judge.client import Deadlines, JudgeModel, Options
from eval.judge.ollama import OllamaTransport
from eval.judge.openai import connect, find_model

_PINNED = re.compile(r"(.+)@(?:sha256:)?([0-9a-f]{6,64})")
_DEADLINES = Deadlines(connect=2.0, read=10.0, idle=10.0, total=10.0)


def preflight_ollama(host: str | None, model: str, *, options: Options | None = None) -> JudgeModel:
    """The judge model as an Ollama server has it.

    Args:
        host: the server's address; None for ``OLLAMA_HOST`` or the default, http://127.0.0.1:11434.
        model: a tag, such as ``llama3``; ``llama3@365c0bd3c000`` is refused if the tag has moved from this digest.
        options: what the model will be run with.

    Raises:
        JudgeUnavailable: nothing, or nothing that is Ollama, answers; known within 2 seconds if nothing listens.
        JudgeModelMissing: the server does not have the model.
        JudgeChanged: the model has another digest than the wanted one.
        EvalConfigError: the address is none, the model cannot chat, or its context is shorter than ``num_ctx``.
    """
    name, wanted = _split_digest(model)
    with OllamaTransport(host, deadlines=_DEADLINES) as transport:
        try:
            server_version = transport.read_server_version()
            listed = transport.list().models
            tag, found = _find_listed(listed, model=name, url=transport.url)
            shown = transport.show(tag)
        except (ConnectionError, httpx.TransportError) as error:
            raise JudgeUnavailable(
                f"no Ollama at {transport.url} ({_explain(error)}); start it: ollama serve"
                " (or name another server with OLLAMA_HOST)"
            ) from error
        except (ollama.ResponseError, httpx.HTTPError, ValueError) as error:
            raise JudgeUnavailable(
                f"{transport.url} answers, but not as Ollama does ({_explain(error)}); start one: ollama serve,"
                " and name its address with OLLAMA_HOST"
            ) from error
        details = shown.details or found.details
        judge = JudgeModel(
            url=transport.url,
            model=tag,
            digest=found.digest or "",
            server_version=server_version,
            quantization=(details and details.quantization_level) or "unknown",
            parameter_size=(details and details.parameter_size) or "unknown",
            context_length=_read_context_length(shown.modelinfo or {}),
            capabilities=tuple(shown.capabilities or ()),
        )
    _check_digest(judge, wanted=wanted, mend=f"get the wanted one back: ollama pull {name}")
    _check_fit(judge, options=options or Options())
    return judge


def preflight_openai(url: str | None, model: str, *, options: Options | None = None) -> JudgeModel:
    """The judge model as an OpenAI-compatible server lists it; arguments and errors as those of ``preflight_ollama``.

    ``url`` is the address of the API, such as http://127.0.0.1:8000/v1; None for ``OPENAI_BASE_URL`` or OpenAI itself.
    """
    name, wanted = _split_digest(model)
    client = connect(url, deadlines=_DEADLINES)
    try:
        judge = find_model(client, name)
    finally:
        client.close()
    _check_digest(judge, wanted=wanted, mend="start the server with the wanted one")
    _check_fit(judge, options=options or Options())
    return judge


def _find_listed(
    listed: Sequence[ollama.ListResponse.Model], *, model: str, url: str
) -> tuple[str, ollama.ListResponse.Model]:
    name = model.rpartition("/")[2]
    tag = model if ":" in name else f"{model}:latest"
    for one in listed:
        if one.model == tag:
            return tag, one
    known = ", ".join(sorted(one.model for one in listed if one.model)) or "none"
    raise JudgeModelMissing(
        f"the Ollama at {url} has no model {model!r} (it has: {known}); get it: ollama pull {model}"
    )


def _read_context_length(info: Any) -> int | None:
    length = info.get(f"{info.get('general.architecture')}.context_length")
    return length if isinstance(length, int) else None


def _split_digest(model: str) -> tuple[str, str]:
    """The name and the wanted digest, which is empty if none is named."""
    match = _PINNED.fullmatch(model)
    return (match[1], match[2]) if match else (model, "")


def _check_digest(judge: JudgeModel, *, wanted: str, mend: str) -> None:
    if not judge.digest.startswith(wanted):
        raise JudgeChanged(
            f"expected {judge.model} at {judge.url} with the digest {wanted}, got {judge.digest[:12]}: the name stands"
            f" for other weights now; {mend}, or accept the new judge: --judge-model"
            f" {judge.model}@{judge.digest[:12]}"
        )


def _check_fit(judge: JudgeModel, *, options: Options) -> None:
    if judge.capabilities and "completion" not in judge.capabilities:
        raise EvalConfigError(
            f"{judge.model} cannot chat (it can: {', '.join(judge.capabilities)}); choose a chat model, such as llama3"
        )
    if judge.context_length is not None and options.num_ctx > judge.context_length:
        raise EvalConfigError(
            f"expected num_ctx of at most {judge.context_length}, the context length of {judge.model}, got"
            f" {options.num_ctx}, which the server would lower silently; set num_ctx to {judge.context_length} or less"
        )


def _explain(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, ConnectionError):
        return "connection refused"
    return " ".join(str(error).split())[:200] or type(error).__name__
