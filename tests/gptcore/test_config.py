"""Configuration values: through JSON and back, set by a dotted path, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from gptcore.checkpoint import ModelSpec
from gptcore.config import Config, canonical_json, set_by_path
from gptcore.data import (
    Data,
    Instructions,
    LabelledText,
    PromptTemplate,
    ShardFile,
    ShardManifest,
    TokenWindows,
    template_by_name,
)
from gptcore.errors import ConfigError
from gptcore.generation import Sampling
from gptcore.models import PRESETS, GPTConfig, LlamaConfig, ModelConfig
from gptcore.models.network import NetworkConfig, WordNetworkConfig
from gptcore.objectives import Classify, Distill, NextToken, Objective
from gptcore.readers import TextReader
from gptcore.run import Run
from gptcore.train import Constant, Cosine, Muon, OptimizerConfig, Schedule, SpikePolicy, TrainConfig
from gptcore.transforms import NF4, Adapter, Classifier, Dropout, ExtendVocabulary, LoRA, Quantize, Transform

LORA = LoRA(rank=4, targets=("qkv",), also_train=("head",))
VALUES: list[Config] = [
    *PRESETS.values(),
    LlamaConfig(),
    Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=3),
    TokenWindows(folder=Path("a/b"), context_length=8),
    LabelledText(path=Path("rows.csv"), tokenizer=Path("t"), labels=("ham", "spam"), context_length=9),
    Instructions(path=Path("rows.jsonl"), tokenizer=Path("t"), template="alpaca", context_length=9, too_long="drop"),
    template_by_name("phi-3"),
    ShardManifest((ShardFile("shard-00000.bin", 7),), "uint16", "bpe", "0" * 64, 300, 299, 1, 20, 7),
    ShardFile("shard-00000.bin", 7),
    NextToken(),
    Classify(label_smoothing=0.1),
    Distill(Path("teacher"), objective=Classify(), temperature=3.0, soft=0.7),
    OptimizerConfig(lr=1e-3),
    Muon(lr=1e-3, momentum=0.9, matrix_lr_scale=2.0),
    Constant(),
    Cosine(warmup=0.2, final=0.0),
    SpikePolicy(sigma=None, window=64, patience=2, max_rollbacks=1),
    TrainConfig(steps=5, micro_batch_size=2, schedule=Constant(warmup=0.5), sample_prompts=("a", "b")),
    Classifier(labels=("a", "b"), train="all"),
    ExtendVocabulary(vocab_size=310),
    LORA,
    Quantize(bits=4, group_size=8),
    NF4(block_size=32, embedding="nf4"),
    Dropout(probability=0.2),
    ModelSpec(PRESETS["nano"], (LORA, Quantize()), template="alpaca", tokenizer_digest="0" * 64),
    TextReader("head+tail", end_token=False, longest=9),
    ModelSpec(PRESETS["nano"], images_digest="0" * 64, reader=TextReader("tail")),
    Run(data=TokenWindows(Path("d"), 8), objective=NextToken(), images=Path("i"), model=PRESETS["nano"]),
    Run(data=TokenWindows(Path("d"), 8), objective=NextToken(), tokenizer=Path("t"), model=PRESETS["nano"]),
    Run(
        data=TokenWindows(Path("d"), 8), objective=NextToken(), tokenizer=Path("t"), init=Path("c"), transforms=(LORA,)
    ),
]
ABSTRACT = {Config, Adapter, NetworkConfig, WordNetworkConfig, ModelConfig, Data, Objective, Transform, Schedule}


@dataclass(frozen=True)
class Inner(Config):
    """A value inside another."""

    rate: float = 0.1


@dataclass(frozen=True)
class Every(Config):
    """A field of every type that a configuration may have."""

    count: int = 1
    rate: float = 0.5
    name: str = "x"
    flag: bool = False
    path: Path = Path("a")
    maybe: int | None = None
    kind: Literal["a", "b"] = "a"  # type: ignore[assignment]
    bits: Literal[4, 8] = 8
    words: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    table: dict[str, int] = dataclasses.field(default_factory=dict)
    inner: Inner = dataclasses.field(default_factory=Inner)
    other: Inner | None = None


def family(base: type[Config]) -> set[type[Config]]:
    return {base}.union(*(family(sub) for sub in base.__subclasses__()))


def test_every_kind_of_configuration_is_tried_below() -> None:
    """A new Config in gptcore has to be added to VALUES."""
    known = {kind for kind in family(Config) if kind.__module__.startswith("gptcore.")} - ABSTRACT
    assert {kind.__name__ for kind in known} == {type(value).__name__ for value in VALUES}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_configuration_survives_json(value: Config) -> None:
    text = json.dumps(value.to_dict())
    for base in (type(value), Config):
        back = base.from_dict(json.loads(text))
        assert back == value
        assert type(back) is type(value)
        assert back.digest() == value.digest()


def test_the_digest_changes_with_every_field() -> None:
    base = TrainConfig()
    changed = [
        dataclasses.replace(base, steps=3),
        dataclasses.replace(base, optimizer=OptimizerConfig(lr=1e-5)),
        dataclasses.replace(base, schedule=Constant()),
    ]
    assert len({value.digest() for value in [base, *changed]}) == 4


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1}) == '{"a":"é","b":1}'


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown Schedule kind 'Cosin'; did you mean 'Cosine'\? \(known: Constant, "
    ):
        Schedule.from_dict({"kind": "Cosin"})


def test_a_kind_of_another_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown Objective kind 'Cosine'"):
        Objective.from_dict({"kind": "Cosine"})


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"OptimizerConfig has no field 'weight_dekay'; did you mean 'weight_decay'\?"
    ):
        OptimizerConfig.from_dict({"weight_dekay": 0.1})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match=r"TokenWindows: .*context_length"):
        TokenWindows.from_dict({"folder": "a"})


@pytest.mark.parametrize("raw", ["nano", 3, ["kind", "Inner"]])
def test_something_else_in_the_place_of_a_configuration_is_refused(raw: Any) -> None:
    with pytest.raises(ConfigError, match=r"Every\.inner is .*; it must be of type Inner"):
        Every.from_dict({"kind": "Every", "inner": raw})
    with pytest.raises(ConfigError, match=r"Every\.other is .*; it must be of type Inner"):
        set_by_path(Every(), "other", raw)


@pytest.mark.parametrize(
    ("path", "raw", "expected"),
    [
        ("count", "7", 7),
        ("count", 7.0, 7),
        ("rate", "1e-3", 1e-3),
        ("rate", 2, 2.0),
        ("name", "hello", "hello"),
        ("flag", "yes", True),
        ("flag", "False", False),
        ("flag", True, True),
        ("path", "x/y", Path("x/y")),
        ("maybe", "3", 3),
        ("maybe", "none", None),
        ("maybe", None, None),
        ("bits", 4, 4),
        ("bits", "4", 4),
        ("words", "a, b,c", ("a", "b", "c")),
        ("words", ["a"], ("a",)),
        ("words", "", ()),
        ("pair", "3,4.5", (3, 4.5)),
        ("table", {"a": "1"}, {"a": 1}),
        ("inner.rate", "0.25", Inner(0.25)),
        ("inner", {"kind": "Inner", "rate": 1}, Inner(1.0)),
    ],
)
def test_a_field_of_every_type_is_set_from_text_or_json(path: str, raw: Any, expected: Any) -> None:
    before = Every()
    after = set_by_path(before, path, raw)
    found = getattr(after, path.partition(".")[0])
    assert found == expected
    assert type(found) is type(expected)
    assert before == Every()


@pytest.mark.parametrize(
    ("path", "raw", "message"),
    [
        ("count", "1.5", r"Every\.count is '1.5'; it must be of type int"),
        ("count", 1.5, r"Every\.count is 1.5; it must be of type int"),
        ("count", True, r"Every\.count is True; it must be of type int"),
        ("rate", "fast", r"Every\.rate is 'fast'; it must be of type float"),
        ("name", 3, r"Every\.name is 3; it must be of type str"),
        ("flag", "maybe", r"Every\.flag is 'maybe'; it must be of type bool"),
        ("flag", 1, r"Every\.flag is 1; it must be of type bool"),
        ("maybe", "x", r"Every\.maybe is 'x'; it must be of type int"),
        ("bits", "5", r"Every\.bits is '5'; it must be one of 4, 8"),
        ("words", 3, r"Every\.words is 3; it must be a list"),
        ("words", ["a", 3], r"Every\.words\[1\] is 3; it must be of type str"),
        ("pair", "1", r"Every\.pair has 1 values; it must have 2"),
        ("table", "a=1", r"Every\.table is 'a=1'; it must be a table"),
        ("table", {"a": "x"}, r"Every\.table\['a'\] is 'x'; it must be of type int"),
        ("inner.rite", "1", r"Inner has no field 'rite'; did you mean 'rate'\?"),
        ("iner.rate", "1", r"Every has no field 'iner'; did you mean 'inner'\?"),
        ("count.more", "1", r"Every\.count has no fields of its own; cannot set 'count\.more'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(path: str, raw: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_by_path(Every(), path, raw)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GPTConfig(width=10, n_heads=4), "width 10 is not a multiple of n_heads 4"),
        (lambda: GPTConfig(n_layers=0), "n_layers is 0; it must be at least 1"),
        (lambda: GPTConfig(dropout=1.0), "dropout is 1.0; it must be at least 0 and below 1"),
        (lambda: OptimizerConfig(lr=0.0), "lr is 0.0; it must be above 0"),
        (lambda: OptimizerConfig(lr=float("nan")), "lr is nan; it must be above 0"),
        (lambda: Muon(lr=-1.0), "lr is -1.0; it must be above 0"),
        (lambda: Muon(momentum=1.0), "momentum is 1.0; it must be at least 0 and below 1"),
        (lambda: Muon(matrix_lr_scale=0.0), "matrix_lr_scale is 0.0; it must be above 0"),
        (lambda: TrainConfig(batch_size=0), "batch_size is 0; it must be at least 1"),
        (lambda: TrainConfig(micro_batch_size=-1), "micro_batch_size is -1; it must be at least 1"),
        (lambda: TrainConfig(steps=-1), "steps is -1; it must be at least 0"),
        (lambda: TrainConfig(epochs=0.0), "epochs is 0.0; it must be above 0"),
        (lambda: TrainConfig(keep="first"), "keep is 'first'; it must be 'best' or 'last'"),
        (lambda: Sampling(max_new_tokens=0), "max_new_tokens is 0; it must be at least 1"),
        (lambda: Sampling(temperature=-1.0), "temperature is -1.0; it must be 0 or more"),
        (lambda: Sampling(top_k=0), "top_k is 0; it must be at least 1"),
        (lambda: Sampling(top_p=0.0), "top_p is 0.0; it must be above 0 and at most 1"),
        (lambda: LoRA(rank=0), "rank is 0; it must be at least 1"),
        (lambda: LoRA(dropout=1.5), "dropout is 1.5; it must be at least 0 and below 1"),
    ],
)
def test_impossible_values_are_refused_when_they_are_made(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_the_name_of_another_kind_keeps_what_both_have() -> None:
    before = TrainConfig(
        steps=3, optimizer=OptimizerConfig(lr=1e-3, beta_2=0.9), schedule=Cosine(warmup=0.2, final=0.3)
    )
    after = set_by_path(set_by_path(before, "optimizer", "Muon"), "schedule", "Constant")
    assert after == dataclasses.replace(before, optimizer=Muon(lr=1e-3, beta_2=0.9), schedule=Constant(warmup=0.2))
    assert set_by_path(
        set_by_path(after, "optimizer", "OptimizerConfig"), "schedule.warmup", 0.1
    ) == dataclasses.replace(before, schedule=Constant(warmup=0.1))


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("optimizer", "Muom", r"TrainConfig\.optimizer: unknown OptimizerConfig kind 'Muom'; did you mean 'Muon'\?"),
        ("optimizer", "Constant", r"TrainConfig\.optimizer: unknown OptimizerConfig kind 'Constant'"),
        ("schedule", "Muon", r"TrainConfig\.schedule: unknown Schedule kind 'Muon'"),
    ],
)
def test_the_name_of_no_kind_is_refused(path: str, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_by_path(TrainConfig(), path, kind)


def test_a_template_survives_json() -> None:
    template = template_by_name("alpaca")
    assert PromptTemplate.from_dict(template.to_dict()) == template
