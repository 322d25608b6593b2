"""LoRA: what is trained, what stays, and that merging changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from gptcore.errors import ConfigError
from gptcore.models import GPT
from gptcore.nn import count_parameters, merge_adapters
from gptcore.transforms import Classifier, LoRA, LoRALinear, adapter_tensors

Build = Callable[..., GPT]


def train_a_little(model: GPT) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(5):
        tokens = torch.randint(300, (4, 9))
        F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_fresh_adapter_changes_nothing(gpt: Build) -> None:
    model, tokens = gpt(), torch.randint(300, (2, 9))
    before = model(tokens)
    assert torch.equal(LoRA().apply(model)(tokens), before)


def test_training_moves_the_adapters_alone(gpt: Build) -> None:
    model = gpt()
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    LoRA(rank=4, targets=("qkv", "down")).apply(model)
    at_start = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_a_little(model)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, at_start[name])}
    adapters = {f"blocks.{i}.{layer}.lora_{part}" for i in (0, 1) for layer in LAYERS for part in "ab"}
    assert moved == adapters == adapter_tensors(model).keys()
    for name, parameter in model.named_parameters():
        if name not in adapters:
            assert torch.equal(parameter, base[name.replace(".base", "")]), name


LAYERS = ("attention.qkv", "feedforward.down")


def test_the_trained_share_is_what_the_rank_says(gpt: Build) -> None:
    model = gpt()
    total = count_parameters(model).total
    LoRA(rank=4, targets=("qkv", "down")).apply(model)
    added = 2 * 4 * ((16 + 48) + (64 + 16))  # layers * rank * (inputs + outputs of each target)
    assert count_parameters(model) == (total + added, added)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_merged_equals_unmerged(gpt: Build, qkv_bias: bool) -> None:
    model, tokens = gpt(qkv_bias=qkv_bias), torch.randint(300, (2, 9))
    plain = model(tokens)
    LoRA(rank=3, alpha=7.0).apply(model)
    train_a_little(model)
    before = model(tokens)
    merge_adapters(model)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    assert torch.allclose(model(tokens), before, atol=1e-5)
    assert not torch.allclose(before, plain, atol=1e-2)


@pytest.mark.parametrize("frozen_input", [True, False])
def test_the_gradients_are_those_of_the_formula(gpt: Build, frozen_input: bool) -> None:
    layer = LoRA(rank=3, alpha=7.0, targets=("up",)).apply(gpt()).get_submodule("blocks.0.feedforward.up").double()
    assert isinstance(layer, LoRALinear)
    with torch.no_grad():
        layer.lora_b.normal_()
    x = torch.randn(2, 5, 16, dtype=torch.float64, requires_grad=not frozen_input)
    inputs = [layer.lora_a, layer.lora_b] if frozen_input else [x, layer.lora_a, layer.lora_b]
    wanted = torch.randn(2, 5, 64, dtype=torch.float64)
    plain = layer.base(x) + 7 / 3 * (x @ layer.lora_a.T @ layer.lora_b.T)
    expected = torch.autograd.grad((plain * wanted).sum(), inputs)
    found = torch.autograd.grad((layer(x) * wanted).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_under_autocast_the_update_is_made_in_its_dtype(gpt: Build) -> None:
    layer = LoRA(rank=3, targets=("up",)).apply(gpt()).get_submodule("blocks.0.feedforward.up")
    assert isinstance(layer, LoRALinear)
    with torch.no_grad():
        layer.lora_b.normal_()
    x = torch.randn(5, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.03, atol=0.03)
    found = torch.autograd.grad(y.float().square().sum(), [x, layer.lora_a, layer.lora_b])
    assert {gradient.dtype for gradient in found} == {torch.float32}


def test_the_update_is_scaled_by_alpha_over_rank(gpt: Build) -> None:
    model = LoRA(rank=4, alpha=2.0, targets=("up",)).apply(gpt())
    layer = model.get_submodule("blocks.0.feedforward.up")
    assert isinstance(layer, LoRALinear)
    with torch.no_grad():
        layer.lora_b.normal_()
    x = torch.randn(5, 16)
    expected = layer.base(x) + 0.5 * x @ layer.lora_a.T @ layer.lora_b.T
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_merging_a_model_without_adapters_leaves_it_as_it_is(gpt: Build) -> None:
    model = gpt()
    assert merge_adapters(model) is model


def test_a_head_can_be_trained_in_full_beside_the_adapters(gpt: Build) -> None:
    model = gpt()
    Classifier(labels=("a", "b", "c"), train="all").apply(model)
    LoRA(rank=2, targets=("qkv",), also_train=("head",)).apply(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"head.weight", "head.bias"} <= trained
    assert all("lora_" in name or name.startswith("head.") for name in trained)


def test_an_unknown_target_is_refused_with_the_names_there_are(gpt: Build) -> None:
    with pytest.raises(
        ConfigError, match="no layer was chosen; the linear layers here are named down, head, out, qkv, up"
    ):
        LoRA(targets=("q_proj",)).apply(gpt())
    with pytest.raises(ConfigError, match="also_train names 'had', which is no module of the model"):
        LoRA(also_train=("had",)).apply(gpt())


def test_the_head_is_never_a_target_by_its_name(gpt: Build) -> None:
    with pytest.raises(ConfigError, match="no layer was chosen"):
        LoRA(targets=("head",)).apply(gpt())
