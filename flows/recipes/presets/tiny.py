"""The preset tiny."""

from __future__ import annotations

from flows.recipes.trainings import train_config
from flows.sources.demo import Demo
from flows.stages.classify.recipe import ClassifyStage
from flows.stages.compress.recipe import CompressStage
from flows.stages.instruct.recipe import InstructStage
from flows.stages.lora.recipe import LoraStage
from flows.stages.pipeline import Pipeline
from flows.stages.prepare.recipe import PrepareStage
from flows.stages.pretrain.recipe import PretrainStage
from gptcore.models import GPTConfig
from gptcore.train import TrainConfig


def tiny() -> Pipeline:
    """The demo's chain in seconds, for tests of the machinery: its figures mean nothing."""
    quick = {"steps": 6, "eval_every": 3, "log_every": 2, "eval_samples": 16, "checkpoint_every": 3}

    def train(lr: float) -> TrainConfig:
        return train_config(lr, epochs=1, batch_size=4, **quick)

    return Pipeline(
        preset="tiny",
        prepare=PrepareStage(source=Demo(docstrings_per_library=40, instruction_rows=120), vocab_size=512),
        pretrain=PretrainStage(model=GPTConfig(context_length=96, width=32, n_layers=2, n_heads=2), train=train(3e-3)),
        classify=ClassifyStage(train=train(1e-3)),
        instruct=InstructStage(template="short", max_new_tokens=8, max_responses=4, train=train(1e-3)),
        lora=LoraStage(rank=2, classify=train(1e-3), instruct=train(1e-3)),
        compress=CompressStage(
            methods=("int8", "int4", "gptq", "hidden+tune"),
            calibration_samples=8,
            train=train(1e-3),
            max_increase_int8=1.0,
            max_increase_int4=1.0,
            max_increase_gptq=1.0,
            speed_tokens=4,
        ),
    )
