"""Replace layers, freeze, count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gptcore.errors import ConfigError
from gptcore.nn import count_parameters, find_linears, freeze, replace_modules


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2, bias=False)))


def test_linear_layers_are_found_by_dotted_name() -> None:
    assert [name for name, _ in find_linears(two_layers())] == ["0", "2.0"]


def test_chosen_layers_are_replaced_in_place() -> None:
    model = two_layers()
    names = replace_modules(model, lambda name, _: name == "2.0", lambda _: nn.Identity())
    assert names == ["2.0"]
    assert isinstance(model.get_submodule("2.0"), nn.Identity)
    assert model(torch.ones(1, 3)).shape == (1, 4)


def test_choosing_nothing_is_an_error_that_lists_the_layers() -> None:
    model = nn.ModuleDict({"up": nn.Linear(2, 2), "down": nn.Linear(2, 2)})
    with pytest.raises(ConfigError, match="no layer was chosen; the linear layers here are named down, up"):
        replace_modules(model, lambda name, _: name == "q_proj", lambda module: module)


def test_shared_parameters_are_counted_once_and_frozen_ones_apart() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    model["head"].weight = model["embedding"].weight
    assert count_parameters(model) == (20, 20)
    freeze(model["embedding"])
    assert count_parameters(model) == (20, 5)
    freeze(model, frozen=False)
    assert count_parameters(model).trainable == 20
