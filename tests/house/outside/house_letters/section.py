"""The count on the page."""

from __future__ import annotations

from house_letters.result import LettersResult

from flows.stages.outcome import PipelineReport
from flows.stages.registry import Headline


def section(report: PipelineReport) -> LettersResult | None:
    """All there is."""
    return report.result(LettersResult)


def headline(report: PipelineReport) -> Headline | None:
    """The letter and its count."""
    result = report.result(LettersResult)
    return (f"count of {result.letter}", result.metrics["letters/count"]) if result else None
