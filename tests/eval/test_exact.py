"""Exact match ignores case, white space and the encoding of characters, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.exact import is_exact, normalise


@pytest.mark.parametrize(
    ("response", "reference", "same"),
    [
        ("\n The  Answer.", "the answer.", True),
        ("cafe\u0301", "caf\u00e9", True),
        ("STRASSE", "stra\u00dfe", True),
        ("the answer", "the answer.", False),
        ("a b", "ab", False),
        ("", "", False),
        (" ", "\n", False),
    ],
)
def test_exact_match_by_example(response: str, reference: str, same: bool) -> None:
    assert is_exact(response, reference) is same


@settings(database=None, deadline=None)
@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_the_short_cut_covers_the_share_of_real_answers_that_was_measured(shared_data: Path) -> None:
    items = json.loads((shared_data / "judge_scores" / "eval-example-data.json").read_text("utf-8"))
    counts = [sum(is_exact(one[f"model {m} response"], one["output"]) for one in items) for m in (1, 2)]
    assert counts == [58, 45]
