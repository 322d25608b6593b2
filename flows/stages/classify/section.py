"""Classification on the page."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from flows.figures.svg import confusion_svg
from flows.stages.classify.result import ClassifyResult
from flows.stages.outcome import PipelineReport
from flows.stages.registry import Headline
from flows.stages.result import first_metric


def section(report: PipelineReport) -> dict[str, Any] | None:
    """The figures, the confusion matrix and the most frequent mistakes."""
    result = report.result(ClassifyResult)
    if result is None:
        return None
    confusion, labels = result.confusion, list(result.labels)
    svg = confusion_svg(confusion, labels, name="confusion")
    mistakes: list[dict[str, Any]] = [
        {"true": labels[i], "predicted": labels[j], "n": cell, "share": cell / sum(row)}
        for i, row in enumerate(confusion)
        for j, cell in enumerate(row)
        if i != j and cell
    ]
    return {
        "metrics": result.metrics,
        "n_classes": len(labels),
        "n_rows": sum(map(sum, confusion)),
        "svg": Markup(svg) if svg else None,
        "mistakes": sorted(mistakes, key=lambda mistake: -mistake["n"])[: 6 if svg else 20],
    }


def headline(report: PipelineReport) -> Headline | None:
    """The accuracy on the test rows."""
    return first_metric(report.result(ClassifyResult), "test/accuracy")
