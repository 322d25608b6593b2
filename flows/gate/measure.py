"""Evidence of one model on an evaluation set. Nothing here knows which side the model is on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval.digest import digest
from eval.judge.prompt import load_prompts
from eval.judge.schema import POINTWISE
from eval.run import score_responses
from eval.types import ControlCounts, Sample
from flows.gate.evidence import Evidence, Variant
from flows.gate.items import EvaluationSet
from flows.gate.policy import GatePolicy, Measure
from flows.stages.context import Context
from flows.stages.evaluate.recipe import EvaluateStage
from flows.stages.judge import items as judge_items
from flows.stages.judge import sitting
from gptcore import checkpoint
from gptcore.classifier import TextClassifier
from gptcore.files import write_json_lines
from gptcore.generation import Sampling
from gptcore.measures import Continuation, bits_per_byte, continuation_nats
from gptcore.text import TextModel
from gptcore.train import Progress

Values = dict[str, float | None]


@dataclass(frozen=True)
class ModelFiles:
    """Where the parts of a model are; None for a part that it does not have."""

    key: str
    """Of its chain."""
    base: Path | None = None
    """Checkpoint of the language model."""
    instruct: Path | None = None
    """Checkpoint of the instructed model."""
    classifier: Path | None = None
    """Checkpoint of the classifier."""
    variants: tuple[Variant, ...] = ()
    """Its compressed forms, as they were measured when they were made."""


@dataclass(frozen=True)
class Instrument:
    """How a model is measured on the items."""

    items: EvaluationSet
    evaluate: EvaluateStage
    """The judge."""
    judge: Mapping[str, str]
    """Whether one answers, and which (``flows.stages.evaluate.body.judge_state``)."""
    max_new_tokens: int
    """Longest answer; answers take the likeliest token."""
    policy: GatePolicy
    """How many answers are generated."""

    def describe(self) -> dict[str, Any]:
        """The settings that can change a value, known before anything is measured; plain JSON values."""
        judge: dict[str, Any] = {"state": self.judge["state"]}
        if self.judge["state"] == "scored":
            prompts = load_prompts("pointwise")
            judge |= {
                "model": self.judge["model"],
                "digest": self.judge["digest"],
                "backend": self.evaluate.judge_backend,
                "num_ctx": self.evaluate.num_ctx,
                "shortcut": self.evaluate.shortcut,
                "prompts": digest([prompts.system, prompts.user, prompts.repair, POINTWISE.schema]),
                "controls": asdict(ControlCounts()),
            }
        return {
            "items": self.items.digest,
            "decoding": {"max_new_tokens": self.max_new_tokens, "temperature": 0.0},
            "responses": min(self.policy.max_responses, len(self.items.rows("instruct"))),
            "judge": judge,
        }


def measure(files: ModelFiles, instrument: Instrument, context: Context) -> Evidence:
    """Measure a model on every item that it can answer.

    Raises:
        CheckpointError, DataError: a part of the model is missing or damaged.
        EvalError: the judge ended the run.
    """
    started, items = time.monotonic(), instrument.items
    values: dict[Measure, Values] = {}
    described = instrument.describe()
    invalid: tuple[str, ...] = ()
    if files.base is not None and items.texts:
        values["text"] = _text(files.base, items.texts)
    context.on_progress(Progress(1, 4, {}))
    if files.classifier is not None and len({row["label"] for row in items.rows("classify")}) > 1:
        values["accuracy"] = _accuracy(files.classifier, items.rows("classify"))
    context.on_progress(Progress(2, 4, {}))
    if files.instruct is not None and items.rows("instruct"):
        model = TextModel.load(files.instruct)
        values["answers"] = _answers(model, items.rows("instruct"))
        context.on_progress(Progress(3, 4, {}))
        asked = items.rows("instruct")[: instrument.policy.max_responses]
        samples = [Sample(row["id"], row["instruction"], row["input"], row["output"]) for row in asked]
        responses = model.respond(
            [(row["instruction"], row["input"]) for row in asked],
            sampling=Sampling(max_new_tokens=instrument.max_new_tokens),
        )
        scored = score_responses(samples, responses).rows
        values["rouge_l"] = {str(row["id"]): float(row["rouge_l"]) for row in scored}
        if instrument.judge["state"] == "scored":
            values["judge"], described["judge"], invalid = _judge(samples, responses, instrument, context)
        write_json_lines(context.folder / "responses.jsonl", scored)
    context.on_progress(Progress(4, 4, {}))
    return Evidence(files.key, described, values, invalid, files.variants, time.monotonic() - started)


def _text(path: Path, texts: Sequence[Mapping[str, str]]) -> Values:
    loaded = checkpoint.load(path)
    end = loaded.tokenizer.end_of_text
    rows = [Continuation([end], loaded.tokenizer.encode(row["text"])) for row in texts]
    nats = continuation_nats(loaded.model, rows)
    return {row["id"]: bits_per_byte(each, row["text"]) for row, each in zip(texts, nats, strict=True)}


def _answers(model: TextModel, rows: Sequence[Mapping[str, str]]) -> Values:
    """Bits per byte of the reference answer after its prompt, the end token among them."""
    tokenizer, template = model.tokenizer, model.template
    if template is None:
        given = [tokenizer.encode(f"{row['instruction']}\n{row['input']}".strip() + "\n") for row in rows]
        wanted = [[*tokenizer.encode(row["output"]), tokenizer.end_of_text] for row in rows]
    else:
        given = [template.encode_prompt(row["instruction"], row["input"], tokenizer=tokenizer) for row in rows]
        wanted = [template.encode_response(row["output"], tokenizer=tokenizer) for row in rows]
    nats = continuation_nats(model.model, [Continuation(*pair) for pair in zip(given, wanted, strict=True)])
    return {row["id"]: bits_per_byte(each, row["output"]) for row, each in zip(rows, nats, strict=True)}


def _accuracy(path: Path, rows: Sequence[Mapping[str, str]]) -> Values:
    """1 for the right class and 0 for another; a class that the model does not have counts as wrong."""
    answers = TextClassifier.load(path).classify([row["text"] for row in rows])
    return {row["id"]: float(answer == row["label"]) for row, answer in zip(rows, answers, strict=True)}


def _judge(
    samples: Sequence[Sample], responses: Sequence[str], instrument: Instrument, context: Context
) -> tuple[Values, dict[str, Any], tuple[str, ...]]:
    """Scores by item, the judge as it describes itself, and why it is not valid."""
    config = replace(instrument.evaluate, judge_models=(sitting.MAIN,), judge_panel=(), pairwise=False)
    found = sitting.judge_models(config, samples, {sitting.MAIN: responses}, context)
    judge_items.write_tables(found, context, summary=judge_items.facts(found))
    report = found.main.reports[sitting.MAIN]
    scores = {str(row["id"]): None if row["score"] is None else float(row["score"]) for row in report.rows}
    planned = instrument.describe()["judge"]
    return scores, {**planned, "described": report.provenance["judge"]}, found.main.validity[sitting.MAIN].reasons
