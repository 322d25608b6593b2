"""What MLflow's UI says about each experiment and each run, in markdown."""

from __future__ import annotations

from collections.abc import Mapping

NOTE = "mlflow.note.content"
"""The tag that the UI shows as the description."""
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has the UI open an experiment with its table of runs; without it, it opens with pages for traces and prompts."""

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
    "judge-compare": "Pairs of evaluations, item by item, made by `gptworks judge compare RUN RUN`.",
    "judge-calibrate": "The judge's scores against people's, made by `gptworks judge calibrate`.",
    "gate-evaluation": "Versions of a registered model, measured for the gate: same items, same judge, same decoding.",
    "gate": "Decisions of the gate about a challenger, each with its table.",
    "retrain": "Rounds of retraining: why it ran, and its result.",
    "compare": "Comparisons of two runs, made by `gptworks compare RUN RUN`.",
    "sweep": "One run for each sweep; its trials hang below it, with the varied settings as params and one metric, "
    "`objective`.",
}
"""Descriptions of the experiments that no stage has."""


def experiment_tags(name: str, about: str = "") -> dict[str, str]:
    """The tags of an experiment: what it holds, in the words of its stage or of the table above."""
    text = about or EXPERIMENTS.get(name)
    return {**_KIND, **({NOTE: text} if text else {})}


def run_note(stage: str, *, metrics: Mapping[str, float], tags: Mapping[str, str], folder: str) -> str:
    """The description of a stage's run: its metrics but those of speed, and of its tags those about its making."""
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
