"""What the evaluation asks outside the store."""

from __future__ import annotations

from flows.sources.base import Places
from flows.stages.evaluate.body import judge_state
from flows.stages.pipeline import Pipeline


def digests(pipeline: Pipeline, places: Places, ollama_host: str) -> dict[str, str]:
    """Of the judge's weights, or its state where none answers: a judge that comes later is asked."""
    del places
    state = judge_state(pipeline.evaluate, ollama_host)
    return {"judge": state.get("digest", state["state"])}
