"""What data preparation reads from outside the store."""

from __future__ import annotations

from flows.sources.base import Places
from flows.sources.hub import starting_digest
from flows.stages.pipeline import Pipeline


def digests(pipeline: Pipeline, places: Places, ollama_host: str) -> dict[str, str]:
    """Of every source, and of a tokenizer that is not trained here."""
    del ollama_host
    found = {f"source/{name}": digest for name, digest in pipeline.prepare.source.digests(places).items()}
    if pipeline.prepare.tokenizer not in ("bpe", "gpt2"):
        found["tokenizer"] = starting_digest(pipeline.prepare.tokenizer)
    return found
