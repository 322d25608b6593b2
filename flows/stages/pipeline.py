"""The whole chain as one frozen value.

Every field can be set from the command line by its dotted path: ``--set pretrain.train.epochs=2``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flows.stages.classify.recipe import ClassifyStage
from flows.stages.compress.recipe import CompressStage
from flows.stages.evaluate.recipe import EvaluateStage
from flows.stages.instruct.recipe import InstructStage
from flows.stages.lora.recipe import LoraStage
from flows.stages.prepare.recipe import PrepareStage
from flows.stages.pretrain.recipe import PretrainStage
from gptcore.config import Config

TRAININGS = ("pretrain.train", "classify.train", "instruct.train", "lora.classify", "lora.instruct", "compress.train")
"""Paths of every ``TrainConfig`` of a chain."""


@dataclass(frozen=True)
class Pipeline(Config):
    """The whole chain."""

    preset: str = "demo"
    """Name of the preset it came from."""
    seed: int = 1
    """Seed of everything that is drawn."""
    prepare: PrepareStage = field(default_factory=PrepareStage)
    """Data preparation."""
    pretrain: PretrainStage = field(default_factory=PretrainStage)
    """Pretraining."""
    classify: ClassifyStage = field(default_factory=ClassifyStage)
    """Classification fine-tuning."""
    instruct: InstructStage = field(default_factory=InstructStage)
    """Instruction fine-tuning."""
    lora: LoraStage = field(default_factory=LoraStage)
    """LoRA for both tasks."""
    compress: CompressStage = field(default_factory=CompressStage)
    """Compression."""
    evaluate: EvaluateStage = field(default_factory=EvaluateStage)
    """Evaluation."""
