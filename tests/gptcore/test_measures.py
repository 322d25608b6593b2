"""Classification figures against scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from gptcore.data.ledger import Ledger
from gptcore.data.rows import PaddedRows, RowClasses
from gptcore.measures import classify_rows
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
