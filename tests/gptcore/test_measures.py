"""Classification figures against scikit-learn's, and the probability of texts against the softmax written out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from gptcore.data.ledger import Ledger
from gptcore.data.rows import PaddedRows, RowClasses
from gptcore.measures import Continuation, bits_per_byte, class_probabilities, classify_rows, continuation_nats
from gptcore.models import GPT
from gptcore.objectives.classify import class_logits
from gptcore.tokenizer import Tokenizer
from gptcore.transforms import Classifier

LABELS = ("a", "b", "c", "d")


def rows_of(tokenizer: Tokenizer, *, n_classes: int) -> tuple[PaddedRows, list[int]]:
    rng = np.random.default_rng(7)
    tokens = [rng.integers(0, 300, size=rng.integers(1, 20)) for _ in range(57)]
    classes = rng.integers(0, n_classes, size=57)
    return PaddedRows(tokens, RowClasses(classes), tokenizer=tokenizer, ledger=Ledger()), classes.tolist()


@pytest.mark.parametrize("batch_size", [1, 8, 100])
def test_figures_equal_scikit_learns_whatever_the_batch_size(
    gpt: Callable[..., GPT], tokenizer: Tokenizer, batch_size: int
) -> None:
    model = Classifier(labels=LABELS).apply(gpt())
    model.head.bias.data[:] = model.head.bias.new_tensor([0.1, 0.0, -0.1, 0.2])
    source, truth = rows_of(tokenizer, n_classes=4)
    told = [int(class_logits(model, source.batch([i])).argmax()) for i in range(len(truth))]
    found = classify_rows(model.train(), source, n_classes=4, batch_size=batch_size)
    assert found.accuracy == pytest.approx(accuracy_score(truth, told))
    assert found.macro_f1 == pytest.approx(f1_score(truth, told, average="macro", labels=range(4), zero_division=0))
    assert found.confusion == confusion_matrix(truth, told, labels=range(4)).tolist()
    assert len(set(told)) > 1


def test_a_class_that_is_neither_there_nor_told_counts_nothing(gpt: Callable[..., GPT], tokenizer: Tokenizer) -> None:
    model = Classifier(labels=LABELS).apply(gpt())
    model.head.bias.data[:] = model.head.bias.new_tensor([0.0, 50.0, 0.0, 0.0])
    source, truth = rows_of(tokenizer, n_classes=2)
    found = classify_rows(model, source, n_classes=4)
    share = sum(truth) / len(truth)
    assert found.accuracy == pytest.approx(share)
    assert found.macro_f1 == pytest.approx(2 * share / (1 + share) / 4)


def test_class_probabilities_are_in_the_order_of_the_rows(gpt: Callable[..., GPT], tokenizer: Tokenizer) -> None:
    model = Classifier(labels=LABELS).apply(gpt())
    source, truth = rows_of(tokenizer, n_classes=4)
    alone = torch.cat([class_logits(model, source.batch([i])).softmax(dim=1) for i in range(len(truth))])
    torch.testing.assert_close(class_probabilities(model, source, batch_size=8), alone)


def nats_of(model: GPT, given: list[int], tokens: list[int]) -> float:
    """-log p token by token, each from all tokens before it."""
    total, whole = 0.0, [*given, *tokens]
    for position in range(len(given), len(whole)):
        features, head = model.features_and_head(torch.tensor([whole[:position]]))
        logits = model.head(features) if head is None else features @ head.T
        total -= float(logits[0, -1].double().log_softmax(-1)[whole[position]])
    return total


def test_continuations_have_the_probability_of_their_tokens_whatever_stands_beside_them(
    gpt: Callable[..., GPT],
) -> None:
    model, rng = gpt(), np.random.default_rng(3)
    length = model.config.context_length
    items = [
        Continuation(
            rng.integers(0, 300, size=1 + i % 4).tolist(), rng.integers(0, 300, size=1 + i % (length - 4)).tolist()
        )
        for i in range(9)
    ]
    found = continuation_nats(model.train(), items)
    with torch.no_grad():
        expected = [nats_of(model.eval(), list(item.given), list(item.tokens)) for item in items]
    assert found == pytest.approx(expected, rel=1e-4)
    assert continuation_nats(model, items[::-1]) == pytest.approx(found[::-1], rel=1e-5)


def test_what_is_given_is_cut_in_front_and_a_long_continuation_is_read_in_windows(gpt: Callable[..., GPT]) -> None:
    model, rng = gpt().eval(), np.random.default_rng(4)
    length = model.config.context_length
    given, tokens = rng.integers(0, 300, size=3 * length).tolist(), rng.integers(0, 300, size=5).tolist()
    with torch.no_grad():
        [found] = continuation_nats(model, [Continuation(given, tokens)])
        assert found == pytest.approx(nats_of(model, given[-(length + 1 - 5) :], tokens), rel=1e-4)
        long = rng.integers(0, 300, size=2 * length + 3).tolist()
        windows = [long[i : i + length + 1] for i in (0, length, 2 * length)]
        expected = sum(nats_of(model, window[:1], window[1:]) for window in windows)
        [found] = continuation_nats(model, [Continuation(long[:1], long[1:])])
    assert found == pytest.approx(expected, rel=1e-4)


def test_bits_per_byte_counts_utf8_bytes() -> None:
    assert bits_per_byte(4 * math.log(2), "aé") == pytest.approx(4 / 3)
    with pytest.raises(ValueError, match="an empty text"):
        bits_per_byte(1.0, "")
