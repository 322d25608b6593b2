"""What MLflow's UI says about each experiment and each run, in markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTE = "mlflow.note.content"
"""The tag that the UI shows as the description."""
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has the UI open an experiment with its table of runs; without it, it opens with pages for traces and prompts."""

_STEP = "The step of a metric is the optimizer step."
_WHOLE = "Metrics without a curve are of the whole run."

EXPERIMENTS: dict[str, str] = {
    "pipeline": "One run for each run of the whole chain, with every stage's figures under the stage's name; the "
    "stages' own runs hang below it.",
    "prepare-data": "Cleaning, deduplication, splits, leaks, tokenizer and token shards. `ledger.json` in the "
    "artifacts says what became of every document and row.",
    "pretrain": f"Base models. {_STEP} Compare `val/loss` only where the tag `gptworks.data` is the same, since "
    "another tokenizer makes other tokens.",
    "finetune-classifier": f"Classifiers, with a TF-IDF baseline beside each (`baseline/tfidf_accuracy`). {_STEP}",
    "finetune-instruct": f"Models that answer instructions; `responses.json` holds the held-out answers. {_STEP}",
    "lora": f"Low-rank adapters, one training for each task, under `classify/` and `instruct/`. {_STEP}",
    "quantize": f"int8 and int4 variants against their original: bytes, perplexity, tokens a second. {_WHOLE}",
    "evaluate": "Scores of the held-out answers: overlap, and the judge where one answered. Compare runs whose tag "
    "`gptworks.judge.group` is the same; `gptworks compare RUN RUN` does it item by item.",
    "compare": "Comparisons of two runs, made by `gptworks compare RUN RUN`.",
    "sweep": "One run for each sweep; its trials hang below it, with the varied settings as params and one metric, "
    "`objective`.",
}
"""Descriptions by stage."""


def experiment_tags(stage: str) -> dict[str, str]:
    """The tags of a stage's experiment."""
    text = EXPERIMENTS.get(stage)
    return {**_KIND, **({NOTE: text} if text else {})}


def run_note(
    stage: str, *, metrics: Mapping[str, float], facts: Mapping[str, str], runs: Mapping[str, str], folder: str
) -> str:
    """The description of a stage's run.

    Args:
        stage: its name.
        metrics: what came out; those of speed are left out.
        facts: what it was made of, by name.
        runs: ids of the tracked runs that it was made from, by stage.
        folder: where the output is.
    """
    shown = {name: value for name, value in sorted(metrics.items()) if not name.startswith("perf/")}
    lines = [f"**{stage}** in `{folder}`", ""]
    lines += ["| metric | value |", "|---|---:|", *(f"| {name} | {value:.6g} |" for name, value in shown.items()), ""]
    lines += [f"- {name}: `{value}`" for name, value in facts.items()]
    lines += [f"- made from: [{name}](#/runs/{run_id})" for name, run_id in runs.items()]
    return "\n".join(lines)


def small(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are numbers."""
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
