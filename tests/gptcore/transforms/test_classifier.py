"""The classification head and what is trained below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gptcore.errors import ConfigError
from gptcore.models import GPT
from gptcore.transforms import Classifier

Build = Callable[..., GPT]
LABELS = ("ham", "spam", "other")


def trained_parts(model: GPT) -> set[str]:
    """The first words of the trained parameters' names, blocks with their number."""
    names = [name.split(".") for name, p in model.named_parameters() if p.requires_grad]
    return {".".join(name[:2]) if name[0] == "blocks" else name[0] for name in names}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"train": "head"}, {"head"}),
        ({"train": "last_blocks"}, {"head", "norm", "blocks.2"}),
        ({"train": "last_blocks", "n_blocks": 2}, {"head", "norm", "blocks.1", "blocks.2"}),
        ({"train": "last_blocks", "n_blocks": 0}, {"head", "norm"}),
        (
            {"train": "all"},
            {"head", "norm", "blocks.0", "blocks.1", "blocks.2", "token_embedding", "position_embedding"},
        ),
    ],
)
def test_exactly_the_named_parts_are_trained(gpt: Build, settings: dict[str, Any], expected: set[str]) -> None:
    model = gpt(n_layers=3)
    Classifier(labels=LABELS, **settings).apply(model)
    assert trained_parts(model) == expected
    whole = {name for name, p in model.named_parameters() if name.split(".")[0] in expected and not p.requires_grad}
    assert whole == set()


def test_the_head_has_an_output_per_class_and_the_embedding_stays(gpt: Build) -> None:
    model = gpt()
    words = model.token_embedding.weight.detach().clone()
    Classifier(labels=LABELS).apply(model)
    assert model(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 3)
    assert torch.equal(model.token_embedding.weight, words)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (Classifier(labels=("ham",)), r"a classifier needs at least 2 classes, got \['ham'\]"),
        (Classifier(labels=LABELS, n_blocks=3), "n_blocks is 3, but the model has 2 blocks"),
        (Classifier(labels=LABELS, n_blocks=-1), "n_blocks is -1, but the model has 2 blocks"),
    ],
)
def test_an_impossible_classifier_is_refused(gpt: Build, classifier: Classifier, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        classifier.apply(gpt())
