"""Presets and overrides: whatever is set arrives, whatever cannot be is refused with the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.chain.request import OwnData, configuration
from flows.recipes.presets import PIPELINES
from flows.recipes.resolve import OPTIMIZERS, optimizer_overrides, resolve, with_own_data
from flows.sources.book import Book
from flows.sources.demo import Demo
from flows.sources.files import Files
from flows.stages.every import STAGES
from flows.stages.pipeline import Pipeline, training_paths
from gptcore.config import Config
from gptcore.errors import ConfigError
from gptcore.train import Muon, OptimizerConfig, TrainConfig


@pytest.mark.parametrize("preset", sorted(PIPELINES))
def test_a_preset_survives_json(preset: str) -> None:
    config = resolve(preset)
    assert config.preset == preset
    again = Pipeline.from_dict(config.to_dict())
    assert again == config
    assert again.digest() == config.digest()


def test_equal_settings_have_equal_digests_however_they_were_written() -> None:
    whole, fraction = (resolve("tiny", overrides=[f"lora.alpha={value}"]) for value in ("16", "16.0"))
    assert whole.digest() == fraction.digest() == resolve("tiny", overrides=["lora.alpha=1.6e1"]).digest()


def test_the_presets_read_what_their_names_say() -> None:
    assert isinstance(resolve("demo").prepare.source, Demo)
    assert isinstance(resolve("book").prepare.source, Book)
    assert resolve("book").prepare.balance
    assert resolve("book").prepare.classify_split == (0.7, 0.1, 0.2)
    assert resolve("book").prepare.instruct_split == (0.85, 0.05, 0.1)


def test_overrides_reach_every_depth_in_their_order() -> None:
    config = resolve(
        "tiny",
        overrides=(
            "seed=7",
            "pretrain.train.optimizer.lr=1e-4",
            "pretrain.train.steps=none",
            "pretrain.train.epochs=2",
            "pretrain.train.epochs=3",
            "prepare.near_duplicates=none",
            "lora.targets=qkv,out",
            "prepare.corpus_split=0.5,0.25,0.25",
        ),
    )
    assert config.seed == 7
    assert config.pretrain.train.optimizer.lr == 1e-4
    assert config.pretrain.train.steps is None
    assert config.pretrain.train.epochs == 3.0
    assert config.prepare.near_duplicates is None
    assert config.lora.targets == ("qkv", "out")
    assert config.prepare.corpus_split == (0.5, 0.25, 0.25)
    assert config.classify == resolve("tiny").classify


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.train.epoch=2", "TrainConfig has no field 'epoch'; did you mean 'epochs'?"),
        ("pretain.train.epochs=2", "Pipeline has no field 'pretain'; did you mean 'pretrain'?"),
        ("seed.x=1", "Pipeline.seed has no fields of its own; cannot set 'seed.x'"),
        ("pretrain.train.epochs", "--set: expected the form a.b=value, got 'pretrain.train.epochs'"),
        ("pretrain.train.batch_size=many", "expected TrainConfig.batch_size to be of type int, got 'many'"),
        ("pretrain.train.batch_size=0", "expected batch_size to be at least 1, got 0"),
        ("classify.tune=some", "expected ClassifyStage.tune to be one of 'head', 'last_blocks', 'all', got 'some'"),
        ("prepare.corpus_split=0.5,0.5", "expected PrepareStage.corpus_split to have 3 values, got 2"),
        ("prepare.balance=perhaps", "expected PrepareStage.balance to be of type bool, got 'perhaps'"),
        (
            "prepare.corpus_split=0.5,0.6,0.1",
            "prepare.corpus_split: expected shares of train, val and test that add up to 1",
        ),
        ("prepare.corpus_split=0.9,0,0.1", "that add up to 1, none of them 0 but the last"),
        (
            "prepare.classify_split=0.9,0.1,0",
            "prepare.classify_split: expected shares of train, val and test that add up to 1",
        ),
        ("prepare.vocab_size=256", "expected PrepareStage.vocab_size to be at least 257, got 256"),
        ("prepare.near_duplicates=8", "prepare.near_duplicates: expected a number between 0 and 1, or none, got 8.0"),
        ("classify.dropout=1", "expected probability to be at least 0 and below 1, got 1.0"),
        ("classify.label_smoothing=-1", "label_smoothing: expected at least 0 and below 1, got -1.0"),
        ("instruct.template=alpacca", "unknown template 'alpacca'; did you mean 'alpaca'?"),
        ("instruct.max_responses=0", "expected InstructStage.max_responses to be at least 1, got 0"),
        ("lora.rank=0", "expected rank to be at least 1, got 0"),
        ("lora.targets=", "lora.targets is empty; expected names of linear layers in the blocks, as in qkv,out"),
        ("compress.group_size=0", "expected CompressStage.group_size to be at least 1, got 0"),
        ("evaluate.concurrency=0", "expected EvaluateStage.concurrency to be at least 1, got 0"),
    ],
)
def test_an_override_that_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve("tiny", overrides=[override])
    assert message in str(refused.value)


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'bok'; did you mean 'book'\? \(known: book, demo, tiny\)"):
        resolve("bok")


def trainings(config: Config, path: str = "") -> dict[str, TrainConfig]:
    """Every training in a configuration by its path, however deep."""
    if isinstance(config, TrainConfig):
        return {path: config}
    found: dict[str, TrainConfig] = {}
    for name, value in vars(config).items():
        if isinstance(value, Config):
            found |= trainings(value, f"{path}.{name}".removeprefix("."))
    return found


def test_an_optimizer_is_chosen_for_every_training_and_the_rates_stay() -> None:
    before = trainings(resolve("book"))
    after = trainings(resolve("book", overrides=optimizer_overrides("muon")))
    assert set(before) == set(after) == set(training_paths(Pipeline()))
    for path, train in after.items():
        assert train.optimizer == Muon(lr=before[path].optimizer.lr), path
        assert train.schedule == before[path].schedule, path
    assert trainings(resolve("book", overrides=optimizer_overrides("adamw"))) == before


def test_every_optimizer_has_a_name_and_an_unknown_one_names_the_nearest() -> None:
    kinds = {OptimizerConfig, *OptimizerConfig.__subclasses__()}
    assert sorted(OPTIMIZERS.values()) == sorted(kind.__name__ for kind in kinds)
    with pytest.raises(ConfigError, match=r"unknown optimizer 'moun'; did you mean 'muon'\? \(known: adamw, muon\)"):
        optimizer_overrides("moun")


def test_own_data_takes_the_place_of_the_source_and_nothing_else() -> None:
    rows, texts = Path("rows.jsonl"), Path("texts")
    config = configuration("tiny", ["seed=3"], OwnData(corpus=[texts], labelled=rows))
    assert config.prepare.source == Files(corpus=(texts,), labelled_rows=rows)
    assert config.prepare.source.parts == ("classify",)
    assert (config.seed, config.pretrain) == (3, resolve("tiny").pretrain)
    assert with_own_data(resolve("tiny")) == resolve("tiny")


def test_own_texts_leave_nothing_to_tests_that_are_not_made_from_them() -> None:
    texts, rows = Path("texts"), Path("rows.jsonl")
    assert resolve("demo").prepare.corpus_split == (0.8, 0.03, 0.17)
    assert with_own_data(resolve("demo"), corpus=[texts]).prepare.corpus_split == (0.97, 0.03, 0.0)
    assert with_own_data(resolve("demo"), rows={"classify": rows}).prepare.corpus_split == (0.8, 0.03, 0.17)
    chosen = resolve("demo", overrides=["prepare.corpus_split=0.5,0.25,0.25"])
    assert with_own_data(chosen, corpus=[texts]).prepare.corpus_split == (0.5, 0.25, 0.25)


def test_own_data_without_any_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="own data needs at least one of --corpus, --labelled or --instructions"):
        Files()


def test_no_two_kinds_of_configuration_share_a_name() -> None:
    def family(kind: type[Config]) -> list[type[Config]]:
        return [kind, *(below for child in kind.__subclasses__() for below in family(child))]

    assert all(stage.run for stage in STAGES.values())  # their bodies import every kind there is
    names = [kind.__name__ for kind in set(family(Config)) if kind.__module__.split(".")[0] in {"gptcore", "flows"}]
    assert sorted(names) == sorted(set(names))
    assert {"Classify", "ClassifyStage", "Run", "Pipeline"} <= set(names)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pretrain.model=LlamaConfig"], "compress.methods has hidden+tune, and pretrain.model is a LlamaConfig"),
        (
            ["lora.targets=qvk"],
            "expected linear layers of the blocks of a GPT, got 'qvk'; did you mean 'qkv'? (known: do",
        ),
        (
            ["pretrain.model=LlamaConfig", "compress.methods=int8", "lora.targets=gate"],
            "lora.targets: expected linear layers of the blocks of a Llama, got 'gate'",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_it_is_trained(overrides: list[str], message: str) -> None:
    """The kind: asked of the chain's own model, not of a GPT that stands for all."""
    with pytest.raises(ConfigError) as refused:
        configuration("tiny", overrides, None)
    assert message in str(refused.value)


def test_what_fits_another_family_is_not_refused() -> None:
    configuration("tiny", ["pretrain.model=LlamaConfig", "compress.methods=int8,gptq", "lora.targets=up"], None)


def test_epochs_that_are_set_are_not_overruled_by_a_presets_steps() -> None:
    """The kind: a setting that another one overrules without a word."""
    assert resolve("tiny").pretrain.train.steps == 6
    train = resolve("tiny", overrides=["pretrain.train.epochs=2"]).pretrain.train
    assert (train.epochs, train.steps) == (2.0, None)
    with pytest.raises(ConfigError, match=r"pretrain\.train\.steps, which overrides it; set one of them"):
        resolve("tiny", overrides=["pretrain.train.steps=9", "pretrain.train.epochs=2"])
