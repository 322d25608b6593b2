"""Scores of the held-out responses: overlap with the references, and the judge where one answers."""

from __future__ import annotations

import math
from typing import Any

from eval.errors import JudgeUnavailable
from eval.judge.assemble import ollama_judge
from eval.judge.preflight import preflight
from eval.run import judge_responses, score_responses
from eval.types import Report, Sample
from flows.recipes import EvaluateStage
from flows.stages.context import Context, Inputs
from gptcore.files import read_json_lines, write_json_lines
from gptcore.train import Progress

RESPONSES = {"instruct": "response", "base": "base", "lora": "response"}


def judge_state(config: EvaluateStage, host: str) -> dict[str, str]:
    """Whether a judge answers, and which; part of the stage's key, so that a judge that comes later is asked.

    Raises:
        JudgeUnavailable: the judge is required and does not answer, or lacks the model.
    """
    if config.judge == "off":
        return {"state": "off", "reason": "switched off by --judge off"}
    try:
        model = preflight(host, config.judge_model)
    except JudgeUnavailable as error:
        if config.judge == "required":
            raise
        return {"state": "skipped", "reason": str(error)}
    return {"state": "scored", "reason": "", "model": model.model, "digest": model.digest}


def evaluate(config: EvaluateStage, judge: dict[str, str], inputs: Inputs, context: Context) -> dict[str, Any]:
    """Overlap for the base, the fine-tuned and the LoRA-adapted model; the judge for the fine-tuned one."""
    rows = read_json_lines(inputs.path("finetune-instruct", "responses.jsonl"))
    samples = [Sample(str(i), row["instruction"], row.get("input", ""), row["output"]) for i, row in enumerate(rows)]
    responses = {"": [row["response"] for row in rows], "base/": [row["base"] for row in rows]}
    if "lora" in inputs.folders and inputs.results["lora"].get("responses"):
        responses["lora/"] = [row["response"] for row in read_json_lines(inputs.path("lora", "responses.jsonl"))]
    metrics: dict[str, float] = {}
    reports: dict[str, Report] = {}
    for prefix, texts in responses.items():
        reports[prefix] = score_responses(samples, texts)
        metrics |= {f"{prefix}{name}": value for name, value in reports[prefix].metrics.items()}
    verdicts: list[dict[str, Any]] = []
    facts: dict[str, Any] = dict(judge)
    if judge["state"] == "scored":
        report = _judged(config, samples, responses[""], context)
        verdicts, facts["provenance"] = report.rows, report.provenance
        # a mean over nothing is no number; MLflow would show NaN as a point
        metrics |= {name: value for name, value in report.metrics.items() if not math.isnan(value)}
        facts |= {name.removeprefix("judge/"): value for name, value in report.metrics.items()}
    scores = [
        {
            "id": sample.id,
            "instruction": sample.instruction,
            "input": sample.input,
            "reference": sample.reference,
            "base": row["base"],
            "response": row["response"],
            "rouge_l": reports[""].rows[i]["rouge_l"],
            "exact": reports[""].rows[i]["exact_match"],
            "judge_score": verdicts[i].get("score") if verdicts else None,
            "judge_reason": (verdicts[i].get("reason") if verdicts else None) or judge["state"],
            "judge_rationale": verdicts[i].get("rationale", "") if verdicts else "",
        }
        for i, (sample, row) in enumerate(zip(samples, rows, strict=True))
    ]
    write_json_lines(context.folder / "scores.jsonl", scores)
    context.log.log_table(scores, "scores.json")
    context.log.set_tags({"gptworks.judge": f"{judge['state']} {judge['reason']}".strip()})
    context.log.log_metrics(metrics)
    return {"judge": facts, "metrics": metrics}


def _judged(config: EvaluateStage, samples: list[Sample], responses: list[str], context: Context) -> Report:
    store = context.places.cache / "judge" / "answers.jsonl"
    store.parent.mkdir(parents=True, exist_ok=True)
    with ollama_judge(context.ollama_host, config.judge_model, store=store) as (judge, _):
        return judge_responses(
            samples,
            responses,
            judge=judge,
            on_progress=lambda progress: context.on_progress(Progress(progress.done, progress.total, {})),
            concurrency=config.concurrency,
        )
