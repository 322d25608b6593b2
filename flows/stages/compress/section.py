"""Compression on the page."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from flows.stages.compress.figures import tradeoff_svg
from flows.stages.compress.result import CompressResult
from flows.stages.lora.result import LoraResult
from flows.stages.outcome import PipelineReport
from flows.stages.registry import Headline
from flows.stages.result import Equivalence


def section(report: PipelineReport) -> dict[str, Any] | None:
    """The table, its drawing, and the model's other forms."""
    result = report.result(CompressResult)
    rows = _equivalence(report)
    if result is None and not rows:
        return None
    svg = Markup(tradeoff_svg(result.variants, name="tradeoff")) if result else None
    return {"result": result, "svg": svg, "equivalence": rows}


def headline(report: PipelineReport) -> Headline | None:
    """Size and loss of int8, or of the first method."""
    result = report.result(CompressResult)
    if result is None or len(result.variants) < 2:
        return None
    original, *others = result.variants
    first = next((one for one in others if one.name == "int8"), others[0])
    return f"{first.name} size, perplexity", f"{first.bytes / original.bytes:.0%}, {first.increase:+.2%}"


def _equivalence(report: PipelineReport) -> list[Equivalence]:
    """Forms of the run's model against itself, those that must be equal first."""
    compressed, adapted = report.result(CompressResult), report.result(LoraResult)
    rows = [*(compressed.equivalence if compressed else ()), *(adapted.equivalence if adapted else ())]
    return sorted(rows, key=lambda row: not row.must_equal)
