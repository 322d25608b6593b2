"""Data preparation on the page."""

from __future__ import annotations

from typing import Any

from flows.sources.catalogue import DATA_SETS
from flows.sources.parts import list_parts
from flows.stages.outcome import PipelineReport
from flows.stages.prepare.result import PrepareResult
from flows.stages.pretrain.result import PretrainResult
from flows.stages.registry import Headline
from flows.stages.unread import describe_unread


def section(report: PipelineReport) -> dict[str, Any] | None:
    """What the data is, and the model that reads it."""
    result, base = report.result(PrepareResult), report.result(PretrainResult)
    return {
        "prepared": result,
        "part_titles": {part.name: part.title for part in list_parts()},
        "unread": describe_unread(result.parts if result else ()),
        "model": base.model if base else None,
        "source_kind": report.config.get("prepare", {}).get("source", {}).get("kind", ""),
        "sources": [_source(name, digest) for name, digest in sorted(report.sources.items())],
    }


def headline(report: PipelineReport) -> Headline | None:
    """The tokens of the corpus."""
    result = report.result(PrepareResult)
    return ("tokens", f"{sum(result.tokens.values()):,}") if result else None


def _source(name: str, digest: str) -> dict[str, str]:
    known = DATA_SETS.get(name)
    # the licence belongs to the catalogued bytes, not to whatever else may carry the name
    if known is None or known.sha256 != digest:
        return {"name": name, "digest": digest, "licence": "", "page": ""}
    return {"name": name, "digest": digest, "licence": known.licence, "page": known.page}
