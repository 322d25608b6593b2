"""Scores of the held-out responses: overlap with the references, and the judge where one answers."""

from __future__ import annotations

from functools import partial
from typing import Any

from eval.errors import JudgeUnavailable
from eval.judge.preflight import preflight_ollama, preflight_openai
from eval.run import score_responses
from eval.types import Report, Sample
from flows.launch.fan_out import fan_out
from flows.stages.context import Context, Inputs
from flows.stages.evaluate.recipe import EvaluateStage
from flows.stages.evaluate.result import EvaluateResult
from flows.stages.judge import items as judged
from flows.stages.judge import sitting as judging
from flows.stages.lora.result import LoraResult
from flows.stages.pipeline import Pipeline
from gptcore.files import read_json_lines, write_json_lines

_ASK_AGAIN = "what it has answered is kept: run the same command with --force once it is back"


def judge_state(config: EvaluateStage, host: str) -> dict[str, str]:
    """Whether a judge answers, and which; part of the stage's key, so that a judge that comes later is asked.

    Args:
        config: the judge.
        host: address of the Ollama server, unless the settings name another one.

    Raises:
        JudgeUnavailable: the judge is required and does not answer, or lacks the model.
        EvalConfigError: the model does not fit the settings.
    """
    if config.judge == "off":
        return {"state": "off", "reason": "switched off by --judge off"}
    specs = judging.judge_specs(config, host)
    ask = preflight_ollama if config.judge_backend == "ollama" else preflight_openai
    try:
        models = [ask(spec.host, spec.model, options=spec.options) for spec in specs]
    except JudgeUnavailable as error:
        if config.judge == "required":
            raise
        return {"state": "skipped", "reason": str(error)}
    digests = "+".join(model.digest for model in models)
    return {"state": "scored", "reason": "", "model": models[0].model, "digest": digests}


def run(pipeline: Pipeline, inputs: Inputs, context: Context) -> EvaluateResult:
    """Ask whether a judge answers, and score."""
    return evaluate(pipeline.evaluate, judge_state(pipeline.evaluate, context.ollama_host), inputs, context)


def evaluate(config: EvaluateStage, judge: dict[str, str], inputs: Inputs, context: Context) -> EvaluateResult:
    """Overlap for the base, the fine-tuned and the LoRA-adapted model; the judge for those of ``judge_models``.

    A judge that answered before the stage and is lost in it ends a required evaluation only.

    Raises:
        JudgeUnavailable: the judge is required and was lost, or its model was changed meanwhile.
        EvalError: what else ``flows.stages.judge.sitting.judge_models`` raises.
    """
    rows = read_json_lines(inputs.path("finetune-instruct", "responses.jsonl"))
    samples = [Sample(str(i), row["instruction"], row.get("input", ""), row["output"]) for i, row in enumerate(rows)]
    responses = {"instruct": [row["response"] for row in rows], "base": [row["base"] for row in rows]}
    adapted = inputs.find(LoraResult)
    if adapted is not None and adapted.responses:
        responses["lora"] = [row["response"] for row in read_json_lines(inputs.path("lora", adapted.responses))]
    metrics: dict[str, float] = {}
    with fan_out(context.launch) as spread:
        overlap = dict(zip(responses, spread(partial(score_responses, samples), responses.values()), strict=True))
    for name in responses:
        prefix = "" if name == judging.MAIN else f"{name}/"
        metrics |= {f"{prefix}{metric}": value for metric, value in overlap[name].metrics.items()}
    facts: dict[str, Any] = dict(judge)
    found = None
    if judge["state"] == "scored":
        try:
            found = judging.judge_models(config, samples, responses, context)
        except JudgeUnavailable as error:
            if config.judge == "required":
                raise
            facts = {"state": "skipped", "reason": f"the judge was lost: {error}; {_ASK_AGAIN}"}
    if found is not None:
        facts |= judged.facts(found)
        metrics |= judged.metrics(found)
        judged.write_tables(found, context, summary=facts)
        _log_figures(found.main, context)
        context.log.log_params({"judge": judged.params(found)})
        context.log.set_tags(judged.tags(found))
    reports = found.main.reports if found else {}
    scores = [_row(i, sample, responses, overlap, reports, facts) for i, sample in enumerate(samples)]
    write_json_lines(context.folder / "scores.jsonl", scores)
    context.log.log_table(scores, "scores.json")
    context.log.set_tags({"gptworks.judge": f"{facts['state']} {facts['reason']}".strip()})
    context.log.log_metrics(metrics)
    return EvaluateResult(judge=facts, metrics=metrics)


def _log_figures(found: judging.Judged, context: Context) -> None:
    from flows.stages.judge.drawings import standalone
    from flows.stages.judge.page import judge_figures

    rows = {name: report.rows for name, report in found.reports.items()}
    controls = found.reports[judging.MAIN].controls
    for figure in judge_figures(rows, controls.rows if controls else [], baseline=found.baseline):
        context.log.log_text(standalone(figure.svg), f"figures/judge_{figure.name}.svg")


def _row(
    i: int,
    sample: Sample,
    responses: dict[str, list[str]],
    overlap: dict[str, Report],
    reports: dict[str, Report],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """One item with what was said of the responses to it."""
    verdict: dict[str, Any] = reports[judging.MAIN].rows[i] if reports else {}
    return {
        "id": sample.id,
        "instruction": sample.instruction,
        "input": sample.input,
        "reference": sample.reference,
        "base": responses["base"][i],
        "response": responses[judging.MAIN][i],
        "rouge_l": overlap[judging.MAIN].rows[i]["rouge_l"],
        "exact": overlap[judging.MAIN].rows[i]["exact_match"],
        "judge_score": verdict.get("score"),
        "judge_reason": verdict.get("reason") or facts["state"],
        "judge_rationale": verdict.get("rationale", ""),
        **{f"judge_score_{name}": report.rows[i]["score"] for name, report in reports.items() if name != judging.MAIN},
    }
