"""GPT-2's sizes, initialisation, causality and limits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gptcore.checkpoint import unique_tensors
from gptcore.errors import ConfigError
from gptcore.models import GPT, PRESETS, GPTConfig
from gptcore.nn import count_parameters

Build = Callable[..., GPT]


@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [
        ("gpt2-small", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_the_presets_have_as_many_parameters_as_openais_models(name: str, n_parameters: int) -> None:
    with torch.device("meta"):
        model = PRESETS[name].build()
    assert count_parameters(model).total == n_parameters


def test_weights_start_as_gpt2_says() -> None:
    model = GPTConfig(vocab_size=2000, context_length=512, width=128, n_layers=8, n_heads=4, tied_head=False).build()
    state = model.state_dict()
    residual = 0.02 / 16**0.5
    for name, std in (
        ("token_embedding.weight", 0.02),
        ("position_embedding.weight", 0.02),
        ("head.weight", 0.02),
        ("blocks.3.attention.qkv.weight", 0.02),
        ("blocks.3.feedforward.up.weight", 0.02),
        ("blocks.3.attention.out.weight", residual),
        ("blocks.3.feedforward.down.weight", residual),
    ):
        assert float(state[name].std()) == pytest.approx(std, rel=0.05), name
    assert all(not tensor.any() for name, tensor in state.items() if name.endswith(".bias"))
    assert all(bool((tensor == 1).all()) for name, tensor in state.items() if "norm" in name and "weight" in name)


def test_a_new_model_expects_every_word_alike() -> None:
    model = GPTConfig(vocab_size=300, context_length=16, width=32, n_layers=2, n_heads=2).build()
    logits = model(torch.randint(300, (4, 16)))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(300, (64,)))
    assert loss.item() == pytest.approx(torch.log(torch.tensor(300.0)).item(), abs=0.1)


def test_a_tied_head_is_the_embedding_and_is_stored_once(gpt: Build) -> None:
    tied, untied = gpt(), gpt(tied_head=False)
    assert tied.head.weight is tied.token_embedding.weight
    kept, aliases = unique_tensors(tied)
    assert aliases == {"head.weight": "token_embedding.weight"}
    assert "head.weight" not in kept
    assert unique_tensors(untied)[1] == {}
    assert count_parameters(untied).total - count_parameters(tied).total == 300 * 16


def test_the_same_seed_gives_the_same_weights(gpt: Build) -> None:
    for a, b in zip(gpt(seed=3).parameters(), gpt(seed=3).parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(gpt(seed=3).token_embedding.weight, gpt(seed=4).token_embedding.weight)


def test_logits_depend_on_the_past_and_the_order_alone(gpt: Build) -> None:
    model, tokens = gpt(), torch.randint(300, (1, 10))
    later = tokens.clone()
    later[0, 6:] = (later[0, 6:] + 1) % 300
    swapped = tokens[:, [1, 0, *range(2, 10)]]
    assert torch.equal(model(tokens)[:, :6], model(later)[:, :6])
    assert not torch.allclose(model(tokens)[:, 9], model(swapped)[:, 9])


def test_without_qkv_bias_that_parameter_is_absent(gpt: Build) -> None:
    assert "blocks.0.attention.qkv.bias" not in gpt(qkv_bias=False).state_dict()
    assert "blocks.0.attention.qkv.bias" in gpt().state_dict()


def test_dropout_acts_in_training_only(gpt: Build) -> None:
    model, tokens = gpt(dropout=0.3), torch.randint(300, (1, 8))
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))


def test_more_positions_than_the_context_are_refused(gpt: Build) -> None:
    model = gpt()
    with pytest.raises(
        ConfigError, match="33 positions do not fit the model's context_length of 32; shorten the input"
    ):
        model(torch.zeros(1, 33, dtype=torch.int64))
    cache = model.new_cache(1, capacity=4)
    with pytest.raises(ConfigError, match="5 positions do not fit"):
        model(torch.zeros(1, 5, dtype=torch.int64), cache=cache)


def test_features_at_one_position_equal_those_picked_from_all(gpt: Build) -> None:
    model = gpt().eval()
    tokens = torch.randint(0, model.config.vocab_size, (3, 7))
    positions = torch.tensor([6, 0, 3])
    picked = model.features(tokens)[torch.arange(3), positions]
    assert torch.allclose(model.features_at(tokens, positions), picked, atol=1e-6)
    gradients = []
    for features in (picked, model.features_at(tokens, positions)):
        model.zero_grad()
        features.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-5)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_packed_row_sees_itself_alone_and_begins_at_position_zero(gpt: Build, checkpointed: bool) -> None:
    model, lengths = gpt(), (4, 1, 7, 4)
    if checkpointed:
        model.checkpoint_activations()
    rows = [torch.randint(0, 300, (1, n)) for n in lengths]
    packed = torch.cat(rows, dim=1)
    apart = torch.cat([model.features(row) for row in rows], dim=1)
    assert torch.allclose(model.features(packed, lengths=lengths, packed=True), apart, atol=1e-6)
    ends = torch.tensor(lengths).cumsum(0) - 1
    assert torch.allclose(model.features_at(packed, ends, lengths=lengths, packed=True), apart[0, ends], atol=1e-6)
    gradients = []
    for features in (apart, model.features(packed, lengths=lengths, packed=True)):
        model.zero_grad()
        features.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


def test_a_packed_row_longer_than_the_context_is_refused(gpt: Build) -> None:
    assert gpt().features(torch.zeros(1, 60, dtype=torch.int64), lengths=(30, 30), packed=True).shape == (1, 60, 16)
    with pytest.raises(ConfigError, match="33 positions do not fit"):
        gpt().features(torch.zeros(1, 35, dtype=torch.int64), lengths=(33, 2), packed=True)
