"""Another dropout probability everywhere, and only in training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gptcore.errors import ConfigError
from gptcore.models import GPT
from gptcore.transforms import Dropout

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


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"probability is 1.0; it must be at least 0 and below 1"):
        Dropout(probability=1.0)
