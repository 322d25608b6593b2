"""Pretraining: a base model on the corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from flows.sources.hub import local_checkpoint
from flows.stages.context import Context, Inputs
from flows.stages.pipeline import Pipeline
from flows.stages.prepare.result import PrepareResult
from flows.stages.pretrain.result import PretrainResult
from flows.stages.training import CHECKPOINT, execute
from gptcore.checkpoint import read_spec
from gptcore.config import set_by_path
from gptcore.data import TokenWindows
from gptcore.models import WordNetworkConfig
from gptcore.nn import count_parameters
from gptcore.objectives import NextToken
from gptcore.run import Run
from gptcore.train.logger import read_history


def run(pipeline: Pipeline, inputs: Inputs, context: Context) -> PretrainResult:
    """A base model on the corpus."""
    config = pipeline.pretrain
    tokenizer = inputs.path("prepare-data", "tokenizer")
    length = config.model.context_length
    n_words = inputs.get(PrepareResult).vocab_size
    model = cast(WordNetworkConfig, set_by_path(config.model, "vocab_size", n_words))
    init = local_checkpoint(config.init, context.places.cache) if config.init else None
    if init is not None:
        length = min(length, read_spec(init).words.context_length)
    training = Run(
        model=None if init else model,
        init=init,
        data=TokenWindows(inputs.path("prepare-data", "corpus/train"), length),
        held_out=TokenWindows(inputs.path("prepare-data", "corpus/val"), length),
        objective=NextToken(),
        tokenizer=tokenizer,
        train=config.train,
        seed=context.seed,
    )
    result = execute(training, context)
    samples = read_history(context.folder / "run/samples.jsonl")
    context.log.log_table(samples, "samples.json")
    return PretrainResult(
        checkpoint=CHECKPOINT, model=_model_facts(result.path), metrics=result.metrics, samples=tuple(samples)
    )


def _model_facts(path: Path) -> dict[str, Any]:
    """The sizes of a checkpoint's model and its number of parameters, without its weights."""
    spec = read_spec(path)
    with torch.device("meta"):
        n_parameters = count_parameters(spec.model.build()).total
    return {**spec.model.to_dict(), "n_parameters": n_parameters}
