"""Pretraining, classification, instructions and LoRA: each builds a ``Run``, executes it, and measures the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from flows.figures.png import confusion_figure, loss_figure
from flows.launch.launcher import train as train_run
from flows.sources.hub import local_checkpoint
from flows.stages.baseline import tfidf_accuracy
from flows.stages.classify.recipe import ClassifyStage
from flows.stages.context import Context, Inputs
from flows.stages.equivalence import LONGEST, merged_model
from flows.stages.instruct.recipe import InstructStage
from flows.stages.lora.recipe import LoraStage
from flows.stages.pretrain.recipe import PretrainStage
from gptcore import checkpoint
from gptcore.checkpoint import read_spec
from gptcore.data import Instructions, LabelledText, Ledger, TokenWindows, template_by_name
from gptcore.files import read_json_lines, write_json_lines
from gptcore.generation import Sampling
from gptcore.measures import ClassMetrics, classify_rows
from gptcore.nn import count_parameters
from gptcore.objectives import Classify, NextToken
from gptcore.run import Run
from gptcore.text import TextModel
from gptcore.tokenizer import Tokenizer
from gptcore.train import Progress, TrainConfig, TrainResult
from gptcore.train.logger import PrefixedLogger, read_history
from gptcore.transforms import NF4, Classifier, Dropout, ExtendVocabulary, LoRA, Transform, adapter_tensors

CHECKPOINT = "run/checkpoint"
"""Where a training stage leaves its model, relative to its output folder."""


def pretrain(config: PretrainStage, inputs: Inputs, context: Context) -> dict[str, Any]:
    """A base model on the corpus."""
    tokenizer = inputs.path("prepare-data", "tokenizer")
    length = config.model.context_length
    model = replace(config.model, vocab_size=inputs.results["prepare-data"]["vocab_size"])
    init = local_checkpoint(config.init, context.places.cache) if config.init else None
    if init is not None:
        length = min(length, read_spec(init).words.context_length)
    run = Run(
        model=None if init else model,
        init=init,
        data=TokenWindows(inputs.path("prepare-data", "corpus/train"), length),
        held_out=TokenWindows(inputs.path("prepare-data", "corpus/val"), length),
        objective=NextToken(),
        tokenizer=tokenizer,
        train=config.train,
        seed=context.seed,
    )
    result = _execute(run, context)
    samples = _samples(context.folder / "run")
    context.log.log_table(samples, "samples.json")
    return {
        "checkpoint": CHECKPOINT,
        "model": _model_facts(result.path),
        "metrics": result.metrics,
        "samples": samples,
    }


def _model_facts(path: Path) -> dict[str, Any]:
    """The sizes of a checkpoint's model and its number of parameters, without its weights."""
    spec = read_spec(path)
    with torch.device("meta"):
        n_parameters = count_parameters(spec.model.build()).total
    return {**spec.model.to_dict(), "n_parameters": n_parameters}


def classify(config: ClassifyStage, inputs: Inputs, context: Context) -> dict[str, Any]:
    """The base model with a classification head."""
    labels = tuple(inputs.prepared("classify")["labels"])
    head = Classifier(labels=labels, train=config.tune, n_blocks=config.n_blocks)
    return _classify(config, (*_dropout(config), head), config.train, inputs, context, folder="run")


def _dropout(config: ClassifyStage) -> tuple[Dropout, ...]:
    return () if config.dropout is None else (Dropout(config.dropout),)


def instruct(config: InstructStage, inputs: Inputs, context: Context) -> dict[str, Any]:
    """The base model taught to answer, and the held-out answers before and after."""
    inputs.prepared("instruct")
    base = inputs.path("pretrain", CHECKPOINT)
    result = _instruct(config, (), config.train, inputs, context, folder="run")
    test, ledger = _held_out_prompts(inputs, config)
    before = _respond(base, config, test, context, offset=0)
    after = _respond(context.folder / CHECKPOINT, config, test, context, offset=len(test), ledger=ledger)
    ledger.save(context.folder / "answers/ledger.json")
    rows = [{**row, "base": b, "response": a} for row, b, a in zip(test, before, after, strict=True)]
    _write_responses(context, rows)
    return {"checkpoint": CHECKPOINT, "responses": "responses.jsonl", "metrics": result.metrics}


def lora(
    config: LoraStage, classify_config: ClassifyStage, instruct_config: InstructStage, inputs: Inputs, context: Context
) -> dict[str, Any]:
    """Low-rank adapters of the base model for each task that has data."""
    metrics: dict[str, float] = {}
    tasks: dict[str, Any] = {}
    if "classify" in inputs.results["prepare-data"]:
        labels = tuple(inputs.prepared("classify")["labels"])
        transforms: tuple[Transform, ...] = (
            Classifier(labels=labels, train="all"),
            *_lora(config, ("head", *config.also_train)),
        )
        tasks["classify"] = _classify(
            classify_config, transforms, config.classify, inputs, context, folder="classify", with_baseline=False
        )
        tasks["classify"] |= _save_adapter(context.folder, "classify")
    if "instruct" in inputs.results["prepare-data"]:
        result = _instruct(
            instruct_config, _lora(config, config.also_train), config.instruct, inputs, context, folder="instruct"
        )
        tasks["instruct"] = {"metrics": result.metrics, "checkpoint": "instruct/checkpoint"}
        tasks["instruct"] |= _save_adapter(context.folder, "instruct")
        test, _ = _held_out_prompts(inputs, instruct_config)
        after = _respond(context.folder / "instruct/checkpoint", instruct_config, test, context, offset=0)
        _write_responses(context, [{**row, "response": text} for row, text in zip(test, after, strict=True)])
    equivalence = []
    if "instruct" in tasks:
        adapted = checkpoint.load(context.folder / "instruct/checkpoint")
        equivalence = merged_model(adapted, adapted.tokenizer.encode(test[0]["instruction"])[:LONGEST] or [0])
    for task, facts in tasks.items():
        metrics |= {f"{task}/{name}": value for name, value in facts["metrics"].items()}
        metrics[f"{task}/trained_share"] = facts["trained_share"]
    responses = "responses.jsonl" if "instruct" in tasks else None
    return {"tasks": tasks, "responses": responses, "metrics": metrics, "equivalence": equivalence}


def _lora(config: LoraStage, also_train: tuple[str, ...]) -> tuple[Transform, ...]:
    """The update, and before it the base's quantization where it is asked for."""
    update = LoRA(
        rank=config.rank, alpha=config.alpha, dropout=config.dropout, targets=config.targets, also_train=also_train
    )
    if config.base_format == "fp32":
        return (update,)
    embedding: Literal["int8", "fp32"] = "fp32" if "token_embedding" in also_train else "int8"
    return NF4(block_size=config.block_size, embedding=embedding), update


def _execute(run: Run, context: Context, *, folder: str = "run") -> TrainResult:
    out = context.folder / folder
    log = context.log if folder == "run" else PrefixedLogger(context.log, prefix=folder)
    result = train_run(run, out, log, launch=context.launch, on_progress=context.on_progress)
    history = read_history(out / "metrics.jsonl")
    context.log.log_figure(loss_figure(history), f"figures/loss-{folder}.png")
    context.log.log_artifact(out / "run.json", folder)
    context.log.log_artifact(result.path, folder)
    return result


def _classify(
    config: ClassifyStage,
    transforms: tuple[Transform, ...],
    train: TrainConfig,
    inputs: Inputs,
    context: Context,
    *,
    folder: str,
    with_baseline: bool = True,
) -> dict[str, Any]:
    tokenizer, base = inputs.path("prepare-data", "tokenizer"), inputs.path("pretrain", CHECKPOINT)
    labels = tuple(inputs.prepared("classify")["labels"])
    length = read_spec(base).words.context_length

    def data(split: str) -> LabelledText:
        path = inputs.path("prepare-data", f"classify/{split}.jsonl")
        return LabelledText(path, tokenizer, labels, length, config.long_inputs, split)

    run = Run(
        init=base,
        transforms=transforms,
        data=data("train"),
        held_out=data("val"),
        objective=Classify(label_smoothing=config.label_smoothing),
        tokenizer=tokenizer,
        train=train,
        seed=context.seed,
    )
    result = _execute(run, context, folder=folder)
    test = data("test").open()
    measured: ClassMetrics = classify_rows(checkpoint.load(result.path).model, test, n_classes=len(labels))
    metrics = result.metrics | {"test/accuracy": measured.accuracy, "test/macro_f1": measured.macro_f1}
    if with_baseline:
        paths = {split: inputs.path("prepare-data", f"classify/{split}.jsonl") for split in ("train", "test")}
        metrics["baseline/tfidf_accuracy"] = tfidf_accuracy(paths["train"], paths["test"])
    _save_ledger(context.folder / folder, [data(split) for split in ("train", "val", "test")])
    context.log.log_figure(confusion_figure(measured.confusion, labels), f"figures/confusion-{folder}.png")
    log = context.log if folder == "run" else PrefixedLogger(context.log, prefix=folder)
    log.log_metrics({name: value for name, value in metrics.items() if not name.startswith("perf/")})
    return {
        "checkpoint": f"{folder}/checkpoint",
        "labels": labels,
        "confusion": measured.confusion,
        "metrics": metrics,
    }


def _instruct(
    config: InstructStage,
    transforms: tuple[Transform, ...],
    train: TrainConfig,
    inputs: Inputs,
    context: Context,
    *,
    folder: str,
) -> TrainResult:
    base = inputs.path("pretrain", CHECKPOINT)
    spec = read_spec(base)
    words = template_by_name(config.template).special_tokens
    known = Tokenizer.load(inputs.path("prepare-data", "tokenizer"))
    tokenizer, folder_of = known.with_special_tokens(words), inputs.path("prepare-data", "tokenizer")
    if tokenizer is not known:
        folder_of = context.folder / "tokenizer"
        tokenizer.save(folder_of)
        # an adapter beside frozen weights would never learn the new tokens' embeddings
        transforms = (
            ExtendVocabulary(vocab_size=tokenizer.vocab_size),
            *(each.with_trained_words() for each in transforms),
        )

    def data(split: str) -> Instructions:
        path = inputs.path("prepare-data", f"instruct/{split}.jsonl")
        length = spec.words.context_length
        return Instructions(path, folder_of, config.template, length, config.mask_prompt, split=split)

    run = Run(
        init=base,
        transforms=transforms,
        data=data("train"),
        held_out=data("val"),
        objective=NextToken(),
        tokenizer=folder_of,
        template=config.template,
        train=train,
        seed=context.seed,
    )
    result = _execute(run, context, folder=folder)
    _save_ledger(context.folder / folder, [data("train"), data("val")])
    return result


def _save_ledger(folder: Path, parts: Sequence[LabelledText | Instructions]) -> None:
    ledger = Ledger()
    for part in parts:
        ledger.merge(part.open().ledger)
    ledger.save(folder / "ledger.json")


def _save_adapter(folder: Path, task: str) -> dict[str, Any]:
    loaded = checkpoint.load(folder / task / "checkpoint")
    tensors = adapter_tensors(loaded.model)
    checkpoint.save_adapter(folder / task / "adapter", tensors=tensors, spec=loaded.spec, tokenizer=loaded.tokenizer)
    counts = count_parameters(loaded.model)
    return {"adapter": f"{task}/adapter", "trained_share": counts.trainable / counts.total}


def _held_out_prompts(inputs: Inputs, config: InstructStage) -> tuple[list[dict[str, str]], Ledger]:
    """The rows that are answered, and a ledger of those that are not."""
    rows, ledger = read_json_lines(inputs.path("prepare-data", "instruct/test.jsonl")), Ledger()
    if n := len(rows[config.max_responses :]):
        ledger.count("answer", "in", n=n, split="test")
        ledger.count("answer", "dropped", n=n, reason="beyond instruct.max_responses", split="test")
    return rows[: config.max_responses], ledger


def _respond(
    path: Path,
    config: InstructStage,
    rows: list[dict[str, str]],
    context: Context,
    *,
    offset: int,
    ledger: Ledger | None = None,
) -> list[str]:
    model = TextModel.load(path, template=config.template)
    total = offset + len(rows)
    return model.respond(
        [(row["instruction"], row.get("input", "")) for row in rows],
        sampling=Sampling(max_new_tokens=config.max_new_tokens),
        on_done=lambda done: context.on_progress(Progress(offset + done, total, {})),
        ledger=ledger,
    )


def _write_responses(context: Context, rows: list[dict[str, str]]) -> None:
    write_json_lines(context.folder / "responses.jsonl", rows)
    context.log.log_table(rows, "responses.json")


def _samples(folder: Path) -> list[dict[str, Any]]:
    return read_history(folder / "samples.jsonl")
