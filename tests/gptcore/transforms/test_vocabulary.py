"""Room for new tokens: old rows stay, the tie stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gptcore.errors import ConfigError
from gptcore.models import GPT
from gptcore.transforms import Classifier, ExtendVocabulary

Build = Callable[..., GPT]


def test_old_rows_stay_bit_for_bit_and_new_ones_start_near_their_mean(gpt: Build) -> None:
    model = gpt()
    old = model.token_embedding.weight.detach().clone()
    ExtendVocabulary(vocab_size=305).apply(model)
    new = model.token_embedding.weight
    assert new.shape == (305, 16)
    assert torch.equal(new[:300], old)
    assert torch.allclose(new[300:], old.mean(dim=0).expand(5, -1), atol=0.1)
    assert len({tuple(row) for row in new[300:].tolist()}) == 5
    assert model.config.vocab_size == 305


@pytest.mark.parametrize("tied_head", [True, False])
def test_the_tie_of_the_head_stays_as_it_was(gpt: Build, tied_head: bool) -> None:
    model = gpt(tied_head=tied_head)
    head, tokens = model.head.weight.detach().clone(), torch.randint(300, (1, 6))
    before = model(tokens)
    ExtendVocabulary(vocab_size=302).apply(model)
    assert (model.head.weight is model.token_embedding.weight) is tied_head
    assert torch.equal(model.head.weight[:300], head)
    assert model(tokens).shape == (1, 6, 302)
    assert torch.allclose(model(tokens)[..., :300], before, atol=1e-6)
    assert model.head.weight.requires_grad
    assert model.token_embedding.weight.requires_grad


def test_a_classification_head_is_left_alone(gpt: Build) -> None:
    model = gpt()
    Classifier(labels=("a", "b"), train="all").apply(model)
    head = model.head
    ExtendVocabulary(vocab_size=302).apply(model)
    assert model.head is head


def test_the_same_size_changes_nothing(gpt: Build) -> None:
    model, tokens = gpt(), torch.randint(300, (1, 6))
    before = model(tokens)
    assert torch.equal(ExtendVocabulary(vocab_size=300).apply(model)(tokens), before)


def test_shrinking_is_refused(gpt: Build) -> None:
    with pytest.raises(ConfigError, match="expected vocab_size to be at least the model's 300, got 299"):
        ExtendVocabulary(vocab_size=299).apply(gpt())
