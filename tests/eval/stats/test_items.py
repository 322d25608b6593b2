"""Pairing and comparing: other items, other instruments and dropped scores are refused, and the difference is named."""

from __future__ import annotations

import pytest

from eval.errors import EvalDataError, IncomparableError, UnpairableError
from eval.run import judge_responses
from eval.stats import ItemScores, check_comparable, compare_runs, find_provenance_differences
from eval.testing.simulated import SimulatedJudge, SimulatedTextJudge
from eval.types import Sample

PROVENANCE = {
    "n_items": 3,
    "items_digest": "1f",
    "seed": 1,
    "comparable_group": "aa",
    "judge": {"mode": "pointwise", "client": {"model_digest": "365c", "options": {"num_ctx": 8192, "seed": 1}}},
}


def test_rows_of_a_report_become_scores_by_item() -> None:
    samples = [Sample(f"item-{i}", "Say it.", "", f"word{i} and more") for i in (2, 0, 1)]
    report = judge_responses(samples, ["word2", "", "no"], judge=SimulatedTextJudge(SimulatedJudge(1)))
    found = ItemScores.from_rows(report.rows)
    assert found.ids == ("item-0", "item-1", "item-2")
    assert found.scores == tuple(row["score"] for row in sorted(report.rows, key=lambda row: row["id"]))
    with pytest.raises(EvalDataError, match="expected 'score' in row 0, got id"):
        ItemScores.from_rows([{"id": "a"}])


def test_ids_that_come_twice_and_impossible_scores_are_refused() -> None:
    with pytest.raises(EvalDataError, match=r"expected unique ids, .* got 'a' more than once"):
        ItemScores(("a", "b", "a"), (1, 2, 3))
    with pytest.raises(UnpairableError, match="expected 3 scores, one for each id, got 2"):
        ItemScores(("a", "b", "c"), (1, 2))
    for wrong in (100.5, -1, float("nan")):
        with pytest.raises(EvalDataError, match=f"expected a score in 0..100 for item 'a', .* got {wrong}"):
            ItemScores(("a",), (wrong,))


def test_other_items_are_refused_by_name() -> None:
    first = ItemScores(("a", "b", "c"), (1, 2, 3))
    second = ItemScores(("b", "d", "e", "f", "g", "h"), (1, 2, 3, 4, 5, 6))
    with pytest.raises(UnpairableError) as refused:
        compare_runs(first, second, seed=0)
    assert "expected the same items in both sets, got 3 and 6 of which" in str(refused.value)
    assert "only the first has 'a', 'c'; only the second has 'd', 'e', 'f' and 2 more" in str(refused.value)
    with pytest.raises(UnpairableError, match="got two empty sets"):
        compare_runs(ItemScores((), ()), ItemScores((), ()), seed=0)


def test_runs_of_the_same_instrument_may_be_compared_whatever_the_seed_of_their_intervals() -> None:
    other = PROVENANCE | {"seed": 2, "comparable_group": "bb"}
    assert find_provenance_differences(PROVENANCE, other) == []
    check_comparable(PROVENANCE, other)


def test_every_difference_of_the_instrument_is_named_with_both_values() -> None:
    client = {"model_digest": "ffff", "options": {"num_ctx": 4096, "seed": 1}, "think": False}
    other = PROVENANCE | {"items_digest": "2e", "judge": {"mode": "pointwise", "client": client}}
    with pytest.raises(IncomparableError) as refused:
        check_comparable(PROVENANCE, other)
    message = str(refused.value)
    assert "they differ in 4 thing(s)" in message
    for line in (
        "items_digest: '1f' against '2e'",
        "judge.client.model_digest: '365c' against 'ffff'",
        "judge.client.options.num_ctx: 8192 against 4096",
        "judge.client.think: 'absent' against False",
    ):
        assert line in message
    # The seed of the judge's own sampling is no seed of an interval.
    client = {"model_digest": "365c", "options": {"num_ctx": 8192, "seed": 2}}
    [one] = find_provenance_differences(PROVENANCE, PROVENANCE | {"judge": {"mode": "pointwise", "client": client}})
    assert (one.name, one.first, one.second) == ("judge.client.options.seed", 1, 2)


def test_a_run_without_provenance_is_comparable_with_nothing() -> None:
    with pytest.raises(IncomparableError, match="nothing is known of how the second run was judged"):
        check_comparable(PROVENANCE, {})
