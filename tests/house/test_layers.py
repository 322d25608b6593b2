"""What nobody knows is refused by its name wherever it would be mangled: layers, codes, heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flows.export.mlflow_models import export_mlflow
from flows.serving.served import Served
from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.compress import prunable
from gptcore.errors import ConfigError
from gptcore.export.gguf import export_gguf
from gptcore.export.hf import export_hf
from gptcore.export.peft import export_peft
from gptcore.models import NetworkConfig
from gptcore.models.blueprint import require_plain, strangers
from gptcore.nn import StandIn
from gptcore.text import TextModel
from gptcore.transforms import NF4, Classifier, Dropout, LoRA, Quantize, Transform
from tests.house.adapters import Doubled, Values
from tests.house.networks import HouseDecoderConfig, HouseEncoderConfig, HouseSeq2SeqConfig, HouseViewerConfig

Saved = Callable[..., Path]
TOKENS = torch.arange(20)[None] * 13 % 280
EXPORTS: dict[str, Callable[[Path, Path], Any]] = {
    "hf": export_hf,
    "gguf": export_gguf,
    "peft": export_peft,
    "mlflow": export_mlflow,
}
NETWORKS = (HouseDecoderConfig(), HouseEncoderConfig(), HouseSeq2SeqConfig(), HouseViewerConfig())
pytestmark = [pytest.mark.flows, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("form", EXPORTS)
def test_a_layer_that_does_not_say_what_it_stands_for_is_not_exported(saved: Saved, tmp_path: Path, form: str) -> None:
    source = saved(*([LoRA(rank=2, targets=("qkv",))] if form == "peft" else []), Doubled())
    with pytest.raises(ConfigError, match=r"blocks\.0\.attention\.out is a Doubling, which a GPTConfig does not build"):
        EXPORTS[form](source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("transform", [Quantize(group_size=8), Quantize(bits=4, group_size=8), NF4(block_size=8)])
def test_it_is_not_stored_in_another_form_either(saved: Saved, transform: Transform) -> None:
    model = checkpoint.load(saved(Doubled())).model
    with pytest.raises(ConfigError, match=r"blocks\.0\.attention\.out is a Doubling"):
        transform.apply(model)
    with pytest.raises(ConfigError, match=r"blocks\.0\.attention\.out is a Doubling"):
        prunable(model)


@pytest.mark.parametrize("transform", [Quantize(group_size=8), Quantize(bits=4, group_size=8), NF4(block_size=8)])
@pytest.mark.parametrize("config", NETWORKS)
def test_every_stack_that_a_network_names_is_stored_in_codes_and_what_it_lacks_is_not_missed(
    config: NetworkConfig, transform: Transform
) -> None:
    """The encoder's stack beside the decoder's; a network of images has no embedding of words."""
    network = config.build()
    n_linears = sum(type(module) is nn.Linear for block in network.each_block() for module in block.modules())
    transform.apply(network)
    layers = [module for block in network.each_block() for module in block.modules()]
    assert not any(type(module) is nn.Linear for module in layers)
    assert sum(isinstance(module, StandIn) for module in layers) == n_linears > 0
    assert hasattr(network, "token_embedding") == isinstance(getattr(network, "token_embedding", None), StandIn)
    with pytest.raises(ConfigError, match=r"is stored as \w+, so storing it in another form is not possible"):
        transform.apply(network)


@pytest.mark.parametrize("config", [HouseEncoderConfig(dropout=0.1), HouseSeq2SeqConfig(dropout=0.1)])
def test_dropout_reaches_the_modules_of_torch_in_every_stack(config: NetworkConfig) -> None:
    network = Dropout(probability=0.5).apply(config.build())
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {0.5}
    assert network.config.dropout == 0.5


@pytest.mark.parametrize("embedding", ["fp32", "nf4", "int8"])
@pytest.mark.parametrize("form", ["hf", "gguf"])
def test_a_model_in_normal_float_is_refused_with_a_sentence(
    saved: Saved, tmp_path: Path, embedding: Any, form: str
) -> None:
    source = saved(NF4(block_size=8, embedding=embedding))
    with pytest.raises(ConfigError, match=r"is stored as \w+, so exporting .* the model is quantized"):
        EXPORTS[form](source, tmp_path / "out")


@pytest.mark.parametrize(
    ("transforms", "announced"),
    [
        ((), "F32"),
        ((Quantize(),), "int8"),
        ((Quantize(bits=4, group_size=8),), "int4"),
        ((NF4(block_size=8),), "NF4"),
        ((NF4(block_size=8, embedding="fp32"),), "NF4"),
        ((NF4(block_size=8), LoRA(rank=2)), "NF4"),
        ((LoRA(rank=2),), "F32"),
    ],
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_server_tells_the_form_that_the_layers_are_stored_in(
    saved: Saved, transforms: tuple[Transform, ...], announced: str, family: str
) -> None:
    served = Served.load(saved(*transforms, config=family), name="m")
    assert served.quantization == announced
    assert served.family == family


@pytest.mark.parametrize("transforms", [(Quantize(),), (Quantize(bits=4, group_size=8),), (NF4(block_size=8),)])
def test_every_layer_of_codes_says_what_it_stands_for(saved: Saved, transforms: tuple[Transform, ...]) -> None:
    model = checkpoint.load(saved(*transforms)).model
    before, found = model(TOKENS), 0
    for name, module in list(model.named_modules()):
        if isinstance(module, StandIn):
            plain = module.merged()
            assert type(plain) in (nn.Linear, nn.Embedding)
            assert torch.equal(plain.get_parameter("weight"), module.dense())
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, plain)
            found += 1
    assert found == 2 * 4 + 2
    require_plain(model, what="this test")
    assert torch.allclose(model(TOKENS), before, atol=1e-4)


def test_a_plain_model_has_no_strangers_and_a_changed_one_names_each_once(saved: Saved) -> None:
    assert list(strangers(checkpoint.load(saved(Classifier(labels=("a", "b")))).model)) == []
    names = [name for name, _ in strangers(checkpoint.load(saved(NF4(block_size=8), LoRA(targets=("up",)))).model)]
    assert len(names) == len(set(names)) == 2 * 4 + 2
    assert not any(".base" in name or ".matrix" in name for name in names)


def test_a_head_of_values_is_known_from_the_spec_and_refused_by_what_needs_words(saved: Saved, tmp_path: Path) -> None:
    source = saved(Values())
    spec = checkpoint.read_spec(source)
    assert (spec.head, spec.outputs) == ("values", ("length", "score"))
    with pytest.raises(ConfigError, match="has a head that gives values in the place of words, so it cannot answer"):
        TextModel.load(source)
    for form, export in EXPORTS.items():
        with pytest.raises(ConfigError, match="gives values; this form is for models that give words"):
            export(source, tmp_path / form)


def test_the_last_head_counts(saved: Saved) -> None:
    labels = Classifier(labels=("ham", "spam"))
    assert checkpoint.read_spec(saved()).head == "words"
    assert ModelSpec(HouseViewerConfig()).head is None
    assert checkpoint.read_spec(saved(Values(), labels, LoRA(rank=2))).head == "classes"
    assert checkpoint.read_spec(saved(labels, Values())).outputs == ("length", "score")
