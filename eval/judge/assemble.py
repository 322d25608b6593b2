"""The judge put together: preflight, the backend, the store of answers before it, the rubric on top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from eval.errors import EvalConfigError
from eval.judge.client import ChatClient, Deadlines, JudgeModel, Options
from eval.judge.ollama import OllamaClient
from eval.judge.openai import OpenAIClient
from eval.judge.pairwise import PairwiseJudge
from eval.judge.pointwise import PointwiseJudge
from eval.judge.preflight import preflight_ollama, preflight_openai
from eval.judge.startup import check_canary, check_form
from eval.judge.store import AnswerStore, CachedClient


@dataclass(frozen=True)
class JudgeSpec:
    """Which model judges, where it is, and what it is run with."""

    model: str = "llama3"
    """Its name on the server, and its digest after an @ if it must not be another."""
    host: str | None = None
    """The server's address; None for the environment's (``OLLAMA_HOST``, ``OPENAI_BASE_URL``) or the default."""
    backend: Literal["ollama", "openai"] = "ollama"
    options: Options = field(default_factory=Options)
    deadlines: Deadlines = field(default_factory=Deadlines)
    logprobs: bool = True
    """Whether to ask for log-probabilities, without which there is no weighted score."""


@dataclass(frozen=True)
class JudgeSession:
    """A judge that is ready to be asked."""

    client: ChatClient
    model: JudgeModel

    def build_pointwise(self, *, shortcut: bool = True) -> PointwiseJudge:
        """It scores one answer at a time."""
        return PointwiseJudge(self.client, shortcut=shortcut)

    def build_pairwise(self, *, shortcut: bool = True) -> PairwiseJudge:
        """It compares two answers."""
        return PairwiseJudge(self.client, shortcut=shortcut)


@contextmanager
def open_judge(spec: JudgeSpec, *, store: Path | None = None) -> Iterator[JudgeSession]:
    """A judge that has passed preflight and the checks of ``eval.judge.startup``; closed at the end.

    ``store`` is the file that keeps the answers; None keeps none. Raises what these checks and ``AnswerStore`` raise,
    and at the end JudgeChanged if the model is no longer the one of the beginning.
    """
    with open_panel([spec], store=store) as (opened,):
        yield opened


@contextmanager
def open_panel(specs: Sequence[JudgeSpec], *, store: Path | None = None) -> Iterator[list[JudgeSession]]:
    """Several judges over one store of answers, each as by ``open_judge``.

    All have passed their checks before the first of them is asked about an item. Let one judge all items before the
    next begins: a server that holds one model at a time would load them in turn. Raises EvalConfigError for no judge,
    and for one that comes twice.
    """
    if not specs or len(set(specs)) < len(specs):
        raise EvalConfigError(
            f"expected at least one judge and none twice, got {[spec.model for spec in specs]}; name each once"
        )
    with ExitStack() as open_parts:
        answers = None if store is None else open_parts.enter_context(AnswerStore(store))
        opened = [_open_one(spec, answers, open_parts) for spec in specs]
        yield opened
        for one in opened:
            one.client.verify()


@contextmanager
def open_ollama_judge(
    host: str | None,
    model: str,
    *,
    store: Path | None = None,
    options: Options | None = None,
    deadlines: Deadlines | None = None,
    shortcut: bool = True,
) -> Iterator[tuple[PointwiseJudge, JudgeModel]]:
    """A pointwise judge on an Ollama server and what it is; otherwise as ``open_judge``."""
    spec = JudgeSpec(model, host, options=options or Options(), deadlines=deadlines or Deadlines())
    with open_judge(spec, store=store) as opened:
        yield opened.build_pointwise(shortcut=shortcut), opened.model


def _open_one(spec: JudgeSpec, answers: AnswerStore | None, open_parts: ExitStack) -> JudgeSession:
    backend: OllamaClient | OpenAIClient
    if spec.backend == "ollama":
        model = preflight_ollama(spec.host, spec.model, options=spec.options)
        backend = OllamaClient(model, options=spec.options, deadlines=spec.deadlines, logprobs=spec.logprobs)
    else:
        model = preflight_openai(spec.host, spec.model, options=spec.options)
        backend = OpenAIClient(model, options=spec.options, deadlines=spec.deadlines, logprobs=spec.logprobs)
    open_parts.callback(backend.close)
    client: ChatClient = backend if answers is None else CachedClient(backend, answers)
    check_canary(backend, options=spec.options, store=answers)
    if "thinking" in model.capabilities:
        check_form(client, model)
    return JudgeSession(client, model)
