"""The evaluation on the page."""

from __future__ import annotations

import math
from typing import Any, Final

from flows.stages.evaluate.result import EvaluateResult
from flows.stages.judge.page import judge_part
from flows.stages.outcome import PipelineReport
from flows.stages.registry import Headline
from flows.stages.result import first_metric

_OVERLAP: Final = ("rouge_l", "exact_match", "chrf", "empty")


def section(report: PipelineReport) -> dict[str, Any] | None:
    """Overlap, and what the judge said or why there is none."""
    result, stage = report.result(EvaluateResult), report.stage(EvaluateResult.stage)
    if result is None or stage is None:
        return None
    judged = judge_part(stage.path, result.judge)
    return {"judge": result.judge, "overlap": _overlap(result.metrics), "judged": judged}


def headline(report: PipelineReport) -> Headline | None:
    """ROUGE-L, and the judge in short."""
    result = report.result(EvaluateResult)
    if result is None:
        return None
    rouge = first_metric(result, "test/rouge_l")
    return "test/rouge_l; judge", f"{f'{rouge[1]:.4g}' if rouge else '-'}; {judge_in_short(result.judge)}"


def judge_in_short(judge: dict[str, Any]) -> str:
    """What came of the judge in a few words: its mean, why that is not to be believed, or why there is none."""
    state, mean = judge.get("state", "off"), judge.get("mean")
    reason = str(judge.get("reason") or "")
    if state in ("off", "skipped"):
        short = reason.split(" (")[0].split(";")[0]  # what mends it stands in the report
        return f"judge: {state}, {short}" if short and state == "skipped" else f"judge: {state}"
    if mean is None or math.isnan(mean):
        score = f"nothing scored, {judge.get('unscored', 0):.0f} unscored"
    else:
        has_interval = judge.get("ci_low") is not None and judge.get("ci_high") is not None
        interval = f" ({judge['ci_low']:.1f} to {judge['ci_high']:.1f})" if has_interval else ""
        score = f"{mean:.1f} of 100{interval}"
    return f"judge: {score}" if state == "scored" else f"{state}: {reason.split(';')[0]}; {score}"


def _overlap(metrics: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {"model": model, **{name: metrics.get(f"{prefix}test/{name}") for name in _OVERLAP}}
        for model, prefix in (("base", "base/"), ("fine-tuned", ""), ("LoRA", "lora/"))
        if f"{prefix}test/rouge_l" in metrics
    ]
