"""The judge put together: preflight, Ollama, the store of answers before it, the rubric on top."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from eval.judge.client import ChatClient, JudgeModel
from eval.judge.ollama import Deadlines, OllamaClient, Options
from eval.judge.pointwise import PointwiseJudge
from eval.judge.preflight import preflight
from eval.judge.store import AnswerStore, CachedClient


@contextmanager
def ollama_judge(
    host: str | None,
    model: str,
    *,
    store: Path | None = None,
    options: Options | None = None,
    deadlines: Deadlines | None = None,
    shortcut: bool = True,
) -> Iterator[tuple[PointwiseJudge, JudgeModel]]:
    """A judge on an Ollama server and what it is; its connections and its store are closed at the end.

    ``store`` is the file that keeps the answers; None keeps none. Raises what ``preflight`` and ``AnswerStore`` raise.
    """
    judge_model = preflight(host, model, options=options)
    with ExitStack() as open_parts:
        backend = OllamaClient(judge_model, options=options, deadlines=deadlines)
        open_parts.callback(backend.close)
        client: ChatClient = backend
        if store is not None:
            client = CachedClient(backend, open_parts.enter_context(AnswerStore(store)))
        yield PointwiseJudge(client, shortcut=shortcut), judge_model
