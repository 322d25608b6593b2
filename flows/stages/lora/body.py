"""LoRA: low-rank adapters of the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from flows.stages.classify.body import train_classifier
from flows.stages.context import Context, Inputs
from flows.stages.equivalence import LONGEST, compare_merged
from flows.stages.instruct.body import RESPONSES, answer, choose_prompts, train_instruct, write_responses
from flows.stages.lora.recipe import LoraStage
from flows.stages.lora.result import Adapted, LoraResult
from flows.stages.pipeline import Pipeline
from flows.stages.prepare.result import PrepareResult
from flows.stages.result import Equivalence
from gptcore import checkpoint
from gptcore.nn import count_parameters
from gptcore.transforms import NF4, Classifier, LoRA, Transform, adapter_tensors


def run(pipeline: Pipeline, inputs: Inputs, context: Context) -> LoraResult:
    """Low-rank adapters of the base model for each task that has data."""
    tasks: dict[str, Adapted] = {}
    equivalence: tuple[Equivalence, ...] = ()
    parts = inputs.get(PrepareResult).parts
    if "classify" in parts:
        tasks["classify"] = _classifier(pipeline, inputs, context)
    if "instruct" in parts:
        tasks["instruct"], equivalence = _instruct(pipeline, inputs, context)
    metrics: dict[str, float] = {}
    for task, adapted in tasks.items():
        metrics |= {f"{task}/{name}": value for name, value in adapted.metrics.items()}
        metrics[f"{task}/trained_share"] = adapted.trained_share
    responses = RESPONSES if "instruct" in tasks else None
    return LoraResult(tasks=tasks, responses=responses, metrics=metrics, equivalence=equivalence)


def _classifier(pipeline: Pipeline, inputs: Inputs, context: Context) -> Adapted:
    config, labels = pipeline.lora, inputs.get(PrepareResult).part("classify").labels
    transforms = (Classifier(labels=labels, train="all"), *_lora(config, ("head", *config.also_train)))
    result = train_classifier(pipeline.classify, transforms, config.classify, inputs, context, folder="classify")
    return Adapted(
        checkpoint=result.checkpoint,
        labels=result.labels,
        confusion=result.confusion,
        metrics=result.metrics,
        **_save_adapter(context.folder, "classify"),
    )


def _instruct(pipeline: Pipeline, inputs: Inputs, context: Context) -> tuple[Adapted, tuple[Equivalence, ...]]:
    config, settings = pipeline.lora, pipeline.instruct
    transforms = _lora(config, config.also_train)
    result = train_instruct(settings, transforms, config.instruct, inputs, context, folder="instruct")
    path = context.folder / "instruct/checkpoint"
    test, _ = choose_prompts(inputs, settings)
    after = answer(path, settings, test, context, offset=0)
    write_responses(context, [{**row, "response": text} for row, text in zip(test, after, strict=True)])
    loaded = checkpoint.load(path)
    merged = compare_merged(loaded, loaded.tokenizer.encode(test[0]["instruction"])[:LONGEST] or [0])
    saved = _save_adapter(context.folder, "instruct")
    return Adapted(checkpoint="instruct/checkpoint", metrics=result.metrics, **saved), (merged,)


def _lora(config: LoraStage, also_train: tuple[str, ...]) -> tuple[Transform, ...]:
    """The update, and before it the base's quantization where it is asked for."""
    update = LoRA(
        rank=config.rank, alpha=config.alpha, dropout=config.dropout, targets=config.targets, also_train=also_train
    )
    if config.base_format == "fp32":
        return (update,)
    embedding: Literal["int8", "fp32"] = "fp32" if "token_embedding" in also_train else "int8"
    return NF4(block_size=config.block_size, embedding=embedding), update


def _save_adapter(folder: Path, task: str) -> dict[str, Any]:
    loaded = checkpoint.load(folder / task / "checkpoint")
    tensors = adapter_tensors(loaded.model)
    checkpoint.save_adapter(folder / task / "adapter", tensors=tensors, spec=loaded.spec, tokenizer=loaded.tokenizer)
    counts = count_parameters(loaded.model)
    return {"adapter": f"{task}/adapter", "trained_share": counts.trainable / counts.total}
