"""Padded rows: bucketing, order, padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcore.batch import IGNORED
from gptcore.data.ledger import Ledger
from gptcore.data.rows import PaddedRows, RowClasses, TokenLabels
from gptcore.errors import DataError
from gptcore.tokenizer import train_bpe

TOKENIZER = train_bpe(["a b c"], vocab_size=258)


def _classed(lengths: list[int]) -> PaddedRows:
    tokens = [np.arange(1, n + 1, dtype=np.int64) for n in lengths]
    classes = RowClasses(np.arange(len(lengths), dtype=np.int64) % 3)
    return PaddedRows(tokens, classes, tokenizer=TOKENIZER, ledger=Ledger())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=300), st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_the_order_is_a_permutation_and_a_pure_function(lengths: list[int], batch: int, seed: int, epoch: int) -> None:
    order = _classed(lengths).order(epoch=epoch, seed=seed, batch_size=batch)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert np.array_equal(order, _classed(lengths).order(epoch=epoch, seed=seed, batch_size=batch))


def test_epochs_and_seeds_differ() -> None:
    rows = _classed(list(range(1, 65)))
    orders = [tuple(rows.order(epoch=e, seed=s, batch_size=4)) for e, s in ((0, 0), (1, 0), (0, 1))]
    assert len(set(orders)) == 3


def test_micro_batches_hold_the_same_rows_as_the_whole_batch() -> None:
    rows = _classed([5, 1, 4, 2, 8, 3, 9, 7, 6, 2])
    order = rows.order(epoch=0, seed=3, batch_size=4)
    whole = rows.batch(order[:4])
    halves = [rows.batch(order[:2]), rows.batch(order[2:4])]
    assert whole.targets["classes"].tolist() == [c for half in halves for c in half.targets["classes"].tolist()]
    assert whole.n_tokens == sum(half.n_tokens for half in halves)


def test_buckets_save_padding() -> None:
    rng = np.random.default_rng(0)
    rows = _classed(rng.integers(1, 100, size=1003).tolist())

    def padded(order: np.ndarray) -> int:
        return sum(int(rows.lengths[order[i : i + 8]].max()) * 8 for i in range(0, 1000, 8))

    real = int(rows.lengths.sum())
    assert padded(rows.order(epoch=0, seed=0, batch_size=8)) < 1.12 * real
    assert padded(rng.permutation(1003)) > 1.5 * real


def test_only_the_last_run_is_ragged_and_batches_are_not_sorted_by_length() -> None:
    rows = _classed(list(range(1, 104)))
    order = rows.order(epoch=0, seed=0, batch_size=10)
    spans = [np.ptp(rows.lengths[order[i : i + 10]]) for i in range(0, 100, 10)]
    assert max(spans) < 20
    means = [rows.lengths[order[i : i + 10]].mean() for i in range(0, 100, 10)]
    assert means != sorted(means)


def test_rows_are_padded_on_the_right_to_the_longest_of_the_batch() -> None:
    batch = _classed([3, 1, 2, 9]).batch([0, 1, 2])
    end = TOKENIZER.end_of_text
    assert batch.inputs["tokens"].tolist() == [[1, 2, 3], [1, end, end], [1, 2, end]]
    assert (batch.lengths, batch.packed) == ((3, 1, 2), False)
    assert batch.targets["classes"].tolist() == [0, 1, 2]
    assert batch.n_tokens == 6


def test_packed_rows_stand_one_after_another_without_padding() -> None:
    batch = _classed([3, 1, 2, 9]).batch([0, 1, 2], packed=True)
    assert batch.inputs["tokens"].tolist() == [[1, 2, 3, 1, 1, 2]]
    assert (batch.lengths, batch.packed) == ((3, 1, 2), True)
    assert batch.targets["classes"].tolist() == [0, 1, 2]
    labelled = PaddedRows(
        [np.array([1, 2]), np.array([4])],
        TokenLabels([np.array([IGNORED, 3]), np.array([5])]),
        tokenizer=TOKENIZER,
        ledger=Ledger(),
    )
    assert labelled.batch([1, 0], packed=True).targets["labels"].tolist() == [[5, IGNORED, 3]]


def test_labels_are_ignored_on_padding() -> None:
    tokens = [np.array([1, 2, 3]), np.array([4])]
    labels = [np.array([IGNORED, 3, 9]), np.array([5])]
    rows = PaddedRows(tokens, TokenLabels(labels), tokenizer=TOKENIZER, ledger=Ledger())
    batch = rows.batch(np.array([0, 1]))
    assert batch.targets["labels"].tolist() == [[IGNORED, 3, 9], [5, IGNORED, IGNORED]]
    assert set(batch.inputs) == {"tokens"}
    assert rows.context_length == 3


def test_the_fingerprint_sees_tokens_targets_and_borders() -> None:
    def fingerprint(tokens: list[list[int]], classes: list[int]) -> str:
        arrays = [np.array(row, dtype=np.int64) for row in tokens]
        return PaddedRows(arrays, RowClasses(np.array(classes)), tokenizer=TOKENIZER, ledger=Ledger()).fingerprint

    base = fingerprint([[1, 2], [3]], [0, 1])
    assert base == fingerprint([[1, 2], [3]], [0, 1])
    assert len({base, fingerprint([[1], [2, 3]], [0, 1]), fingerprint([[1, 2], [3]], [1, 1])}) == 3


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="no rows are left"):
        PaddedRows([], TokenLabels([]), tokenizer=TOKENIZER, ledger=Ledger())
