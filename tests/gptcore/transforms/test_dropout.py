"""Another dropout probability everywhere, and only in training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gptcore.errors import ConfigError
from gptcore.models import GPT
from gptcore.transforms import Dropout, LoRA, LoRALinear

Build = Callable[..., GPT]
TOKENS = torch.arange(8)[None]


def test_it_acts_like_a_model_that_was_built_with_it(gpt: Build) -> None:
    changed, built = Dropout(probability=0.4).apply(gpt(dropout=0.1)), gpt(dropout=0.4)
    found = []
    for model in (changed, built):
        torch.manual_seed(1)
        found.append(model.train()(TOKENS))
    assert torch.equal(*found)
    assert changed.config == built.config
    assert torch.equal(changed.eval()(TOKENS), gpt()(TOKENS))


def test_zero_switches_it_off(gpt: Build) -> None:
    model = Dropout(probability=0.0).apply(gpt(dropout=0.5)).train()
    assert torch.equal(model(TOKENS), model(TOKENS))


def test_torchs_own_dropout_and_every_module_with_a_probability_are_set_and_adapters_keep_theirs(gpt: Build) -> None:
    model = LoRA(rank=2, dropout=0.3).apply(gpt(dropout=0.1))
    model.blocks[0].register_module("extra", torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Dropout2d(0.1)))
    model.blocks[1].register_module("attention_of_torch", torch.nn.MultiheadAttention(16, 2, dropout=0.1))
    Dropout(probability=0.4).apply(model)
    drawn = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout | torch.nn.Dropout2d)]
    own = [m.dropout for m in model.modules() if isinstance(getattr(m, "dropout", None), float)]
    assert drawn == [0.4, 0.4]
    assert sorted(set(own)) == [0.3, 0.4]
    assert {m.dropout for m in model.modules() if isinstance(m, LoRALinear)} == {0.3}


def test_a_model_without_dropout_is_refused_instead_of_left_as_it_is(gpt: Build) -> None:
    model = gpt()
    for part in model.modules():
        vars(part).pop("dropout", None)
    with pytest.raises(ConfigError, match=r"a GPT has no module with dropout, so that a probability of 0\.4"):
        Dropout(probability=0.4).apply(model)


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"probability is 1.0; it must be at least 0 and below 1"):
        Dropout(probability=1.0)
