"""Instructions on the page."""

from __future__ import annotations

from typing import Any, Final

from flows.stages.instruct.result import InstructResult
from flows.stages.outcome import PipelineReport
from flows.stages.registry import Headline
from flows.stages.result import first_metric
from gptcore.files import read_json_lines

N_RESPONSES: Final = 12
"""Responses shown in full."""


def section(report: PipelineReport) -> dict[str, Any] | None:
    """The best and the worst by ROUGE-L where there are scores, otherwise the first."""
    instruct, evaluate = report.stage(InstructResult.stage), report.stage("evaluate")
    if instruct is None:
        return None
    if evaluate is not None and (evaluate.path / "scores.jsonl").is_file():
        scored = read_json_lines(evaluate.path / "scores.jsonl")
        ranked = sorted(scored, key=lambda row: -float(row["rouge_l"]))
        half = N_RESPONSES // 2
        groups = (
            [("Best by ROUGE-L", ranked[:half]), ("Worst by ROUGE-L", ranked[-half:])]
            if len(ranked) > N_RESPONSES
            else [("By ROUGE-L, best first", ranked)]
        )
        return {"n": len(scored), "groups": groups}
    path = instruct.path / "responses.jsonl"
    rows = read_json_lines(path) if path.is_file() else []
    plain = [{"input": "", **row, "reference": row["output"], "judge_rationale": ""} for row in rows[:N_RESPONSES]]
    return {"n": len(rows), "groups": [("The first", plain)] if plain else []}


def headline(report: PipelineReport) -> Headline | None:
    """The ROUGE-L that the evaluation found, or the held-out loss without one."""
    evaluated = report.stage("evaluate")
    rouge = first_metric(evaluated.result, "test/rouge_l") if evaluated else None
    return rouge or first_metric(report.result(InstructResult), "val/loss")
