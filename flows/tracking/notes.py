"""What MLflow's UI says about each experiment and each run, in markdown."""

from __future__ import annotations

from collections.abc import Mapping

NOTE = "mlflow.note.content"
"""The tag that the UI shows as the description."""
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has the UI open an experiment with its table of runs; without it, it opens with pages for traces and prompts."""

_STEP = "The step of a metric is the optimizer step."
_WHOLE = "Metrics without a curve are of the whole run."

_RUN = "gptworks.run."
_MADE_OF = {
    "gptworks.preset": "preset",
    "gptworks.data": "data",
    "gptworks.tokenizer": "tokenizer",
    "gptworks.parent_checkpoint": "parent checkpoint",
}

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
    "judge-compare": "Pairs of evaluations, item by item, made by `gptworks judge compare RUN RUN`.",
    "judge-calibrate": "The judge's scores against people's, made by `gptworks judge calibrate`.",
    "gate-evaluation": "Versions of a registered model, measured for the gate: same items, same judge, same decoding.",
    "gate": "Decisions of the gate about a challenger, each with its table.",
    "retrain": "Rounds of retraining: why it ran, and what came of it.",
    "compare": "Comparisons of two runs, made by `gptworks compare RUN RUN`.",
    "sweep": "One run for each sweep; its trials hang below it, with the varied settings as params and one metric, "
    "`objective`.",
}
"""Descriptions by stage."""


def experiment_tags(stage: str) -> dict[str, str]:
    """The tags of a stage's experiment."""
    text = EXPERIMENTS.get(stage)
    return {**_KIND, **({NOTE: text} if text else {})}


def run_note(stage: str, *, metrics: Mapping[str, float], tags: Mapping[str, str], folder: str) -> str:
    """The description of a stage's run.

    Args:
        stage: its name.
        metrics: what came out; those of speed are left out.
        tags: the run's own, of which those about its making are shown.
        folder: where the output is.
    """
    shown = {name: value for name, value in sorted(metrics.items()) if not name.startswith("perf/")}
    lines = [f"**{stage}** in `{folder}`", ""]
    if shown:
        lines += [
            "| metric | value |",
            "|---|---:|",
            *(f"| {name} | {value:.6g} |" for name, value in shown.items()),
            "",
        ]
    lines += [f"- {what}: `{tags[tag]}`" for tag, what in _MADE_OF.items() if tag in tags]
    made_from = {tag.removeprefix(_RUN): run_id for tag, run_id in tags.items() if tag.startswith(_RUN)}
    lines += [f"- made from: [{name}](#/runs/{run_id})" for name, run_id in made_from.items()]
    return "\n".join(lines)
