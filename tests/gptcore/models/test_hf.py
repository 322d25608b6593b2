"""Our GPT against transformers' GPT2LMHeadModel, weight by weight and logit by logit; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gptcore.errors import CheckpointError
from gptcore.models import GPT, GPTConfig
from gptcore.models.gpt.hf import from_hf_config, load_hf_tensors, to_hf_config, to_hf_tensors

Build = Callable[..., GPT]


@pytest.mark.parametrize("tied_head", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_logits_equal_transformers_with_the_same_weights(gpt: Build, tied_head: bool, qkv_bias: bool) -> None:
    transformers = pytest.importorskip("transformers")
    model = gpt(tied_head=tied_head, qkv_bias=qkv_bias, n_heads=4, n_layers=3)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**to_hf_config(model.config, end_of_text=256)))
    told = theirs.load_state_dict(to_hf_tensors(model), strict=False)
    assert told.unexpected_keys == []
    assert set(told.missing_keys) <= {"lm_head.weight"}
    theirs.tie_weights()
    tokens = torch.randint(300, (3, 32))
    with torch.no_grad():
        logits = theirs.eval()(tokens).logits
        assert float(logits.std()) > 0.1
        assert torch.allclose(model(tokens), logits, atol=1e-4, rtol=0)


def test_weights_survive_the_way_there_and_back(gpt: Build) -> None:
    model, other = gpt(tied_head=False), gpt(seed=9, tied_head=False)
    load_hf_tensors(other, to_hf_tensors(model))
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_names_without_a_prefix_and_old_mask_buffers_are_understood(gpt: Build) -> None:
    model, other = gpt(), gpt(seed=9)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in to_hf_tensors(model).items()}
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 32, 32), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    load_hf_tensors(other, tensors)
    assert torch.equal(model.head.weight, other.head.weight)


def test_the_configuration_survives_the_way_there_and_back() -> None:
    config = GPTConfig(vocab_size=300, context_length=32, width=16, n_layers=2, n_heads=2, tied_head=False)
    assert from_hf_config(to_hf_config(config, end_of_text=1)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "config.json describes a 'llama' model; only gpt2 can be imported"),
        ({"n_inner": 0}, "expected n_inner to be a whole number of at least 1, or null, got 0"),
        ({"activation_function": "relu"}, "activation_function 'relu' is not GPT-2's tanh-GELU"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
        ({"n_embd": None}, "config.json has no usable 'n_embd'"),
    ],
)
def test_a_model_of_another_shape_is_refused(change: dict[str, Any], message: str) -> None:
    data = {**to_hf_config(GPTConfig(width=16, n_heads=2), end_of_text=1), **change}
    data = {name: value for name, value in data.items() if value is not None or name == "n_inner"}
    with pytest.raises(CheckpointError, match=message):
        from_hf_config(data)


def test_missing_unknown_and_misshapen_weights_are_named(gpt: Build) -> None:
    tensors = to_hf_tensors(gpt())
    without = {name: tensor for name, tensor in tensors.items() if "ln_f" not in name}
    with pytest.raises(CheckpointError, match=r"missing \['transformer.ln_f.bias', 'transformer.ln_f.weight'\]"):
        load_hf_tensors(gpt(), without)
    with pytest.raises(CheckpointError, match=r"unknown \['transformer.extra'\]"):
        load_hf_tensors(gpt(), {**tensors, "extra": torch.zeros(1)})
    with pytest.raises(
        CheckpointError, match=r"transformer.wpe.weight has shape \(8, 16\), config.json needs \(32, 16\)"
    ):
        load_hf_tensors(gpt(), {**tensors, "transformer.wpe.weight": torch.zeros(8, 16)})
