"""The whole chain as one frozen value.

Every field can be set from the command line by its dotted path: ``--set pretrain.train.epochs=2``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

from flows.stages.classify.recipe import ClassifyStage
from flows.stages.compress.recipe import CompressStage
from flows.stages.evaluate.recipe import EvaluateStage
from flows.stages.instruct.recipe import InstructStage
from flows.stages.lora.recipe import LoraStage
from flows.stages.prepare.recipe import PrepareStage
from flows.stages.pretrain.recipe import PretrainStage
from flows.stages.registry import REGISTERED
from gptcore.config import Config, later
from gptcore.train import TrainConfig


@dataclass(frozen=True)
class StageRecipe(Config):
    """Base of the settings of a stage that has no field of its own in ``Pipeline``."""

    path: ClassVar[str]
    """Their place: ``--set <path>.<field>=value``."""


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
    further: tuple[StageRecipe, ...] = later(())
    """Settings of further stages, where they differ from their defaults."""

    def recipe(self, path: str) -> Config:
        """The settings at a path: a field, or those of a further stage.

        Raises:
            KeyError: no stage has settings of this name.
        """
        if path in {field.name for field in fields(self)}:
            found: Config = getattr(self, path)
            return found
        given = {each.path: each for each in self.further}
        return given.get(path) or further_recipes()[path]()

    def with_recipe(self, recipe: StageRecipe) -> Pipeline:
        """The same with other settings of a further stage."""
        others = tuple(each for each in self.further if each.path != recipe.path)
        changed = () if recipe == type(recipe)() else (recipe,)
        return replace(self, further=(*others, *changed))


def further_recipes() -> dict[str, type[StageRecipe]]:
    """Path -> kind of the settings of every further stage."""
    for stage in REGISTERED.values():
        stage.load_recipe()
    return {kind.path: kind for kind in StageRecipe.__subclasses__()}


def training_paths(config: Config) -> list[str]:
    """Dotted paths of every ``TrainConfig`` within a configuration."""
    found = []
    for each in fields(config):
        value = getattr(config, each.name)
        if isinstance(value, TrainConfig):
            found.append(each.name)
        elif isinstance(value, Config):
            found += [f"{each.name}.{path}" for path in training_paths(value)]
    return found
