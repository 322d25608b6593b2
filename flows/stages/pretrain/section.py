"""Pretraining on the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from flows.stages.outcome import PipelineReport
from flows.stages.pretrain.result import PretrainResult
from flows.stages.registry import Headline
from flows.stages.result import first_metric

N_SAMPLES: Final = 5
"""Moments of the training from which samples are shown, for each prompt."""


def section(report: PipelineReport) -> list[dict[str, Any]] | None:
    """What the model made of each sample prompt, as the training went on."""
    result = report.result(PretrainResult)
    if result is None:
        return None
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for line in result.samples:
        by_prompt.setdefault(line["prompt"], []).append(line)
    return [
        {"prompt": prompt, "n": len(lines), "lines": _spread(lines, N_SAMPLES)} for prompt, lines in by_prompt.items()
    ]


def headline(report: PipelineReport) -> Headline | None:
    """How well held-out text is predicted."""
    result = report.result(PretrainResult)
    return first_metric(result, "val/bits_per_byte", "val/perplexity", "val/loss")


def _spread(lines: Sequence[Any], n: int) -> list[Any]:
    """``n`` of them at even distances, the first and the last among them."""
    if len(lines) <= n:
        return list(lines)
    return [lines[round(i * (len(lines) - 1) / (n - 1))] for i in range(n)]
