"""Overlap figures against counts made by hand."""

from __future__ import annotations

import pytest

from eval.overlap import measure_corpus_chrf, measure_rouge_l, measure_sentence_chrf


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence() -> None:
    # "the cat sat" against "the fat cat sat down": 3 words in common and in order, of 3 and of 5.
    precision, recall = 3 / 3, 3 / 5
    assert measure_rouge_l(["the cat sat"], ["the fat cat sat down"]) == [
        pytest.approx(2 * precision * recall / (precision + recall))
    ]


def test_rouge_l_minds_the_order_of_words() -> None:
    assert measure_rouge_l(["sat cat the"], ["the cat sat"]) == [pytest.approx(1 / 3)]


def test_identical_texts_reach_the_top_and_empty_ones_the_bottom() -> None:
    assert measure_rouge_l(["a b c", ""], ["a b c", "a b c"]) == [1.0, 0.0]
    assert measure_sentence_chrf(["a b c", ""], ["a b c", "a b c"]) == [pytest.approx(100.0), 0.0]
    assert measure_corpus_chrf(["a b c"], ["a b c"]) == pytest.approx(100.0)
    assert measure_corpus_chrf([], []) == 0.0


def test_chrf_of_one_pair_by_hand() -> None:
    # "ab" against "abc": 1-grams 2 of 2 and 2 of 3, 2-grams 1 of 1 and 1 of 2; no longer ones in both.
    # chrF averages precision and recall over the orders, then takes F with beta 2.
    precision = (1 + 1) / 2
    recall = (2 / 3 + 1 / 2) / 2
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert measure_sentence_chrf(["ab"], ["abc"]) == [pytest.approx(expected)]
