"""Compression of the language model and of the classifier by several methods: one table, checked by a gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from flows.launch.energy import energy_meter
from flows.stages.classify.recipe import ClassifyStage
from flows.stages.compress.figures import tradeoff_svg
from flows.stages.compress.recipe import CompressStage, beginnings
from flows.stages.compress.result import CompressedForm, CompressResult
from flows.stages.compress.rows import as_text, form_metrics, measure_classifier, measure_language_model
from flows.stages.compress.steps import Subject, Workshop
from flows.stages.context import Context, Inputs
from flows.stages.equivalence import compare_forms, first_tokens
from flows.stages.instruct.recipe import InstructStage
from flows.stages.judge.drawings import standalone
from flows.stages.pipeline import Pipeline
from flows.stages.prepare.result import PrepareResult
from flows.stages.training import CHECKPOINT
from gptcore import checkpoint
from gptcore.checkpoint import Loaded
from gptcore.data import Instructions, LabelledText, Source, TokenWindows
from gptcore.errors import GptcoreError
from gptcore.objectives import Classify, NextToken
from gptcore.train import Progress

ORIGINAL = "fp32"
"""Name of the row of the model as it was."""


class QualityGateError(GptcoreError):
    """A compressed model lost more quality than its gate allows; the message has the table."""

    exit_code = 10


def run(pipeline: Pipeline, inputs: Inputs, context: Context) -> CompressResult:
    """Each method's size, quality against the original, accuracy and speed.

    Raises:
        QualityGateError: a method's perplexity rose by more than its gate; the table is in the message and tracked.
        ConfigError: a method cannot be applied to this model.
    """
    config = pipeline.compress
    words, held_out, measured_on = _language_model(config, pipeline.instruct, inputs)
    rows = _Steps(config, context, n_subjects=1 + _has_classifier(config, inputs))
    table = rows.make(words, _measure_words(words, held_out, config))
    if _has_classifier(config, inputs):
        subject, test, n_classes = _classifier(pipeline.classify, inputs)
        accuracies = rows.make(subject, lambda loaded, _: measure_classifier(loaded, test, n_classes=n_classes))
        table = [row | {"accuracy": other["accuracy"]} for row, other in zip(table, accuracies, strict=True)]
    variants = _apply_gates(table, config)
    metrics = form_metrics(variants)
    _log(variants, metrics, context)
    _check_gates(variants)
    paths = {one.name: context.folder / one.checkpoint for one in variants if one.checkpoint}
    original = checkpoint.load(words.checkpoint)
    equivalence = compare_forms(original, words.checkpoint, first_tokens(held_out, original.decoder), variants=paths)
    context.log.log_table([one.to_dict() for one in equivalence], "equivalence.json")
    parent = "pretrain" if words.checkpoint == inputs.path("pretrain", CHECKPOINT) else "finetune-instruct"
    return CompressResult(
        parent=parent, measured_on=measured_on, variants=variants, metrics=metrics, equivalence=tuple(equivalence)
    )


def _apply_gates(table: list[dict[str, Any]], config: CompressStage) -> tuple[CompressedForm, ...]:
    """The rows as values, each with its increase over the first and its gate."""
    forms = []
    for row in table:
        increase = row["perplexity"] / table[0]["perplexity"] - 1
        gate = None if row is table[0] else config.gate(row["name"])
        forms.append(CompressedForm(**row, increase=increase, gate=gate, passed=gate is None or increase <= gate))
    return tuple(forms)


def _check_gates(variants: Sequence[CompressedForm]) -> None:
    failed = [one.name for one in variants if not one.passed]
    if failed:
        raise QualityGateError(
            f"{', '.join(failed)}: the perplexity increased by more than the gate allows\n{as_text(variants)}\n"
            "raise compress.max_increase_int8, _int4, _gptq or _other, lower compress.group_size, or leave the method "
            "out of compress.methods"
        )


class _Steps:
    """Makes and measures the forms, and reports progress."""

    def __init__(self, config: CompressStage, context: Context, *, n_subjects: int) -> None:
        self.config, self.context = config, context
        self.done, self.n = 0, n_subjects * (1 + len(beginnings(config.methods)))

    def make(self, subject: Subject, measure: Callable[[Loaded, Any], dict[str, Any]]) -> list[dict[str, Any]]:
        """A row for the original and for each method."""
        folder = self.context.folder / subject.name
        workshop = Workshop(subject, self.config, self.context, folder)
        rows = [{"name": ORIGINAL, **measure(checkpoint.load(subject.checkpoint), subject.checkpoint)}]
        self._step()
        for steps in beginnings(self.config.methods):
            path = workshop.make(steps)
            if "+".join(steps) in self.config.methods:
                row = {"name": "+".join(steps), "checkpoint": str(path.relative_to(self.context.folder))}
                rows.append(row | measure(checkpoint.load(path), path))
                self.context.log.log_artifact(path, f"{subject.name}/{row['name']}")
            self._step()
        order = [ORIGINAL, *self.config.methods]
        return sorted(rows, key=lambda row: order.index(row["name"]))

    def _step(self) -> None:
        self.done += 1
        self.context.on_progress(Progress(self.done, self.n, {}))


def _language_model(config: CompressStage, instruct: InstructStage, inputs: Inputs) -> tuple[Subject, Source, str]:
    """What is compressed, what it is measured on, and the name of that.

    An instructed model has left the corpus behind; its perplexity there says little about what rounding costs it.
    """
    if config.model == "instruct" and "finetune-instruct" in inputs.folders:
        path = inputs.path("finetune-instruct", CHECKPOINT)
        spec = checkpoint.read_spec(path)

        def rows(split: str) -> Instructions:
            file, length = inputs.path("prepare-data", f"instruct/{split}.jsonl"), spec.words.context_length
            template = spec.template or instruct.template
            return Instructions(file, path / "tokenizer", template, length, instruct.mask_prompt, split=split)

        subject = Subject("language", path, rows("train"), rows("val"), NextToken())
        return subject, rows("test").open(), "the answers to the held-out instructions"
    path = inputs.path("pretrain", CHECKPOINT)
    length = checkpoint.read_spec(path).words.context_length
    train, val = (TokenWindows(inputs.path("prepare-data", f"corpus/{name}"), length) for name in ("train", "val"))
    return Subject("language", path, train, val, NextToken()), val.open(), "the held-out part of the corpus"


def _has_classifier(config: CompressStage, inputs: Inputs) -> bool:
    return config.classifier and "finetune-classifier" in inputs.folders


def _classifier(config: ClassifyStage, inputs: Inputs) -> tuple[Subject, Source, int]:
    """What is compressed, the rows it is measured on, and the number of classes."""
    path = inputs.path("finetune-classifier", CHECKPOINT)
    labels = inputs.get(PrepareResult).part("classify").labels
    length = checkpoint.read_spec(path).words.context_length

    def rows(split: str) -> LabelledText:
        file = inputs.path("prepare-data", f"classify/{split}.jsonl")
        return LabelledText(file, path / "tokenizer", labels, length, config.long_inputs, split)

    objective = Classify(label_smoothing=config.label_smoothing)
    return Subject("classifier", path, rows("train"), rows("val"), objective), rows("test").open(), len(labels)


def _measure_words(
    subject: Subject, held_out: Source, config: CompressStage
) -> Callable[[Loaded, Any], dict[str, Any]]:
    original = checkpoint.load(subject.checkpoint)

    def measure(loaded: Loaded, path: Any) -> dict[str, Any]:
        return measure_language_model(
            loaded, path, original=original, held_out=held_out, n_tokens=config.speed_tokens, meter=energy_meter()
        )

    return measure


def _log(variants: Sequence[CompressedForm], metrics: dict[str, float], context: Context) -> None:
    rows = [one.to_dict() for one in variants]
    context.log.log_table(rows, "compression.json")
    (context.folder / "variants.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    context.log.log_text(standalone(tradeoff_svg(variants, name="tradeoff")), "figures/compression.svg")
    context.log.log_metrics(metrics)
