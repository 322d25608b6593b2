"""From a preset and changes to it to the whole chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import cast

from flows.recipes.presets import PIPELINES
from flows.sources.files import Files
from flows.stages.pipeline import Pipeline, StageRecipe, further_recipes, training_paths
from gptcore.config import nearest, set_by_path
from gptcore.errors import ConfigError

OPTIMIZERS = {"adamw": "OptimizerConfig", "muon": "Muon"}
"""Names on the command line and kinds."""


def resolve(preset: str, *, overrides: Sequence[str] = ()) -> Pipeline:
    """The preset's value with overrides of the form ``a.b=c`` applied in order.

    Raises:
        ConfigError: the preset or a field is unknown (the nearest is named), or a value does not fit.
    """
    if preset not in PIPELINES:
        raise ConfigError(f"unknown preset {preset!r}{nearest(preset, PIPELINES)}")
    config = PIPELINES[preset]()
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set: expected the form a.b=value, got {override!r}")
        config = _set(config, path.strip(), value.strip())
    config = _with_epochs(config, [override.partition("=")[0].strip() for override in overrides])
    if config.pretrain.init and config.prepare.tokenizer == "bpe":
        # a model from elsewhere can only read what was made with its own tokenizer
        config = cast(Pipeline, set_by_path(config, "prepare.tokenizer", config.pretrain.init))
    # a whole number in a field of fractions becomes one: 1 and 1.0 are equal, but would give two keys
    return Pipeline.from_dict(config.to_dict())


def _with_epochs(config: Pipeline, paths: Sequence[str]) -> Pipeline:
    """Have epochs that are set count: the steps of a preset, which would go before them, are taken away.

    Raises:
        ConfigError: the steps are set as well; names both.
    """
    for path in paths:
        training, _, name = path.rpartition(".")
        steps = f"{training}.steps"
        if name != "epochs" or training not in training_paths(config) or attrgetter(steps)(config) is None:
            continue
        if steps in paths:
            raise ConfigError(f"--set has {path} and {steps}, which overrides it; set one of them")
        config = cast(Pipeline, set_by_path(config, steps, None))
    return config


def optimizer_overrides(name: str) -> list[str]:
    """What ``--optimizer`` stands for: this optimizer in every training, the other settings as they are.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer {name!r}{nearest(name, OPTIMIZERS)}")
    return [f"{training}.optimizer={OPTIMIZERS[name]}" for training in training_paths(Pipeline())]


def with_own_data(config: Pipeline, *, corpus: Sequence[Path] = (), rows: Mapping[str, Path] | None = None) -> Pipeline:
    """The same chain on the user's own files; what is not given is left out of the chain.

    Args:
        config: the chain.
        corpus: files or folders of texts.
        rows: name of a part of the data -> its file.

    Raises:
        ConfigError: a part is unknown.
    """
    if not (corpus or rows):
        return config
    files = Files.of(corpus, rows or {})
    prepare, preset = replace(config.prepare, source=files), PIPELINES[config.preset]().prepare
    if corpus and prepare.corpus_split == preset.corpus_split:
        # a preset whose rows are made from its corpus leaves a part of that to their tests; own rows need none
        train, val, test = prepare.corpus_split
        prepare = replace(prepare, corpus_split=(round(train + test, 9), val, 0.0))
    return replace(config, prepare=prepare)


def _set(config: Pipeline, path: str, value: str) -> Pipeline:
    """With one setting changed: of the chain, or of a stage that has no field in it."""
    head, _, rest = path.partition(".")
    if head in further_recipes() and rest:
        return config.with_recipe(cast(StageRecipe, set_by_path(config.recipe(head), rest, value)))
    return cast(Pipeline, set_by_path(config, path, value))
