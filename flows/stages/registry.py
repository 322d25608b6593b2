"""The stages: their inputs, their code versions and the functions that make them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flows.sources.base import Places
from flows.sources.hub import starting_digest
from flows.stages import training
from flows.stages.compress import body as compression
from flows.stages.context import Context, Inputs
from flows.stages.evaluate import body as evaluation
from flows.stages.pipeline import Pipeline
from flows.stages.prepare import body as prepare
from gptcore.config import Config


@dataclass(frozen=True)
class Stage:
    """One stage of the chain."""

    name: str
    """Its name: of its flow, its folder in the store and its MLflow experiment."""
    version: str
    """Raised whenever its code changes what it makes; part of the key."""
    needs: tuple[str, ...]
    """Stages whose output it reads."""
    configs: tuple[str, ...]
    """Fields of ``Pipeline`` that decide its output, its own first."""
    body: Callable[[Pipeline, Inputs, Context], dict[str, Any]]
    """Makes the output."""
    parts: tuple[str, ...] = ()
    """Parts of the data (``classify``, ``instruct``) of which it needs one; without any the stage is left out."""

    def config(self, pipeline: Pipeline) -> dict[str, Any]:
        """The configuration that decides the output, as JSON."""
        values: dict[str, Config] = {name: getattr(pipeline, name) for name in self.configs}
        return {**{name: value.to_dict() for name, value in values.items()}, "seed": pipeline.seed}


def external_inputs(stage: Stage, pipeline: Pipeline, places: Places, ollama_host: str) -> dict[str, str]:
    """Digests of what a stage reads from outside the store: source files, starting weights, the judge."""
    if stage.name == "prepare-data":
        digests = {f"source/{name}": digest for name, digest in pipeline.prepare.source.digests(places).items()}
        if pipeline.prepare.tokenizer not in ("bpe", "gpt2"):
            digests["tokenizer"] = starting_digest(pipeline.prepare.tokenizer)
        return digests
    if stage.name == "pretrain" and pipeline.pretrain.init:
        return {"init": starting_digest(pipeline.pretrain.init)}
    if stage.name == "evaluate":
        state = evaluation.judge_state(pipeline.evaluate, ollama_host)
        return {"judge": state.get("digest", state["state"])}
    return {}


def _evaluate(pipeline: Pipeline, inputs: Inputs, context: Context) -> dict[str, Any]:
    state = evaluation.judge_state(pipeline.evaluate, context.ollama_host)
    return evaluation.evaluate(pipeline.evaluate, state, inputs, context)


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("prepare-data", "2", (), ("prepare",), lambda p, _, c: prepare.run(p.prepare, c)),
        Stage(
            "pretrain",
            "1",
            ("prepare-data",),
            ("pretrain",),
            lambda p, i, c: training.pretrain(p.pretrain, i, c),
        ),
        Stage(
            "finetune-classifier",
            "1",
            ("prepare-data", "pretrain"),
            ("classify",),
            lambda p, i, c: training.classify(p.classify, i, c),
            parts=("classify",),
        ),
        Stage(
            "finetune-instruct",
            "1",
            ("prepare-data", "pretrain"),
            ("instruct",),
            lambda p, i, c: training.instruct(p.instruct, i, c),
            parts=("instruct",),
        ),
        Stage(
            "lora",
            "2",
            ("prepare-data", "pretrain"),
            ("lora", "classify", "instruct"),
            lambda p, i, c: training.lora(p.lora, p.classify, p.instruct, i, c),
            parts=("classify", "instruct"),
        ),
        Stage(
            "compress",
            "1",
            ("prepare-data", "pretrain", "finetune-classifier", "finetune-instruct"),
            ("compress", "classify", "instruct"),
            lambda p, i, c: compression.compress(p.compress, p.instruct, p.classify, i, c),
        ),
        Stage(
            "evaluate",
            "3",
            ("finetune-instruct", "lora"),
            ("evaluate",),
            _evaluate,
            parts=("instruct",),
        ),
    )
}
"""Every stage by name, in the order of the chain."""
