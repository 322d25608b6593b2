"""What pretraining reads from outside the store."""

from __future__ import annotations

from flows.sources.base import Places
from flows.sources.hub import starting_digest
from flows.stages.pipeline import Pipeline


def digests(pipeline: Pipeline, places: Places, ollama_host: str) -> dict[str, str]:
    """Of the starting weights, if there are some."""
    del places, ollama_host
    return {"init": starting_digest(pipeline.pretrain.init)} if pipeline.pretrain.init else {}
