"""Pairs in both orders: win rate, ties by disagreement, and what the place of an answer decided."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from eval.errors import EvalConfigError, EvalDataError, UnpairableError
from eval.stats import SwappedGames, WinRate, compute_exact_interval, measure_win_rate

results = st.sampled_from([1.0, 0.5, 0.0])
games_of_items = st.lists(st.tuples(results, results), min_size=2, max_size=25)


def play(rows: list[tuple[float | None, float | None]], **chosen: object) -> WinRate:
    first, second = zip(*rows, strict=True)
    games = SwappedGames(tuple(f"item-{i:03}" for i in range(len(rows))), first, second)
    return measure_win_rate(games, **({"seed": 1, "n_resamples": 500} | chosen))  # type: ignore[arg-type]


def test_each_item_weighs_the_mean_of_its_games_and_disagreement_is_a_counted_tie() -> None:
    found = play([(1, 1), (1, 0), (0, 0), (0.5, 0.5), (1, 0.5), (0, 1)])
    assert found.rate.mean == pytest.approx((1 + 0.5 + 0 + 0.5 + 0.75 + 0.5) / 6)
    assert (found.wins, found.losses, found.ties, found.disagreements) == (1, 1, 4, 3)
    assert found.consistency.mean == 0.5
    assert found.verdict == "not distinguishable"


def test_a_judge_that_always_takes_the_first_answer_gives_one_half_and_is_found_out() -> None:
    found = play([(1, 0)] * 40)
    assert found.rate.mean == 0.5
    assert found.verdict == "not distinguishable"
    assert found.first_slot.mean == 1
    assert found.consistency.mean == 0
    assert found.first_of_disagreements.low == pytest.approx(0.025 ** (1 / 40))
    assert found.slot_p == pytest.approx(2 * 0.5**40)


def test_without_an_effect_of_the_place_both_rates_agree_and_with_one_they_part() -> None:
    even = play([(1, 1)] * 30 + [(0, 0)] * 10)
    assert even.place_free.mean == pytest.approx(even.rate.mean) == 0.75
    # 36 of 40 and 20 of 40: odds of 9 and of 1, whose geometric mean is 3.
    uneven = play([(1, 1)] * 18 + [(1, 0)] * 18 + [(0, 1)] * 2 + [(0, 0)] * 2)
    assert uneven.rate.mean == pytest.approx(0.7)
    assert uneven.place_free.mean == pytest.approx(0.75)
    assert uneven.place_free.low < 0.75 < uneven.place_free.high


def test_a_judge_blind_to_the_place_shows_no_first_slot() -> None:
    found = play([(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 5)
    assert found.first_slot.mean == 0.5
    assert found.first_slot.low < 0.5 < found.first_slot.high
    assert found.slot_p == 1
    assert play([(1, 1), (0.5, 0.5)]).slot_p == 1


def test_winning_everything_on_few_items_is_no_certainty() -> None:
    found = play([(1, 1)] * 10)
    wanted = scipy_stats.binomtest(10, 10).proportion_ci(0.95, method="exact")
    assert (found.rate.mean, found.rate.high) == (1, 1)
    assert found.rate.low == pytest.approx(wanted.low)
    assert found.verdict == "better"


@settings(database=None, deadline=None, max_examples=40)
@given(games_of_items)
def test_changing_the_names_of_the_models_turns_everything_round(rows: list[tuple[float, float]]) -> None:
    # B's result where B stands first is one less A's where A stands second.
    turned = [(1 - second, 1 - first) for first, second in rows]
    there, back = play(rows), play(turned)
    assert back.rate.mean == pytest.approx(1 - there.rate.mean)
    assert (back.rate.low, back.rate.high) == pytest.approx((1 - there.rate.high, 1 - there.rate.low))
    assert (back.wins, back.losses, back.ties) == (there.losses, there.wins, there.ties)
    assert back.place_free.mean == pytest.approx(1 - there.place_free.mean)
    assert back.p_value == there.p_value
    assert back.first_slot == there.first_slot
    assert back.consistency == there.consistency
    opposite = {"better": "worse", "worse": "better", "not distinguishable": "not distinguishable"}
    assert back.verdict == opposite[there.verdict]


def test_a_game_without_a_result_takes_its_item_out_and_widens_the_bounds() -> None:
    found = play([(1, 1)] * 8 + [(1, None), (None, None)])
    assert (found.rate.mean, found.rate.n, found.n_unscored) == (1, 8, 2)
    assert found.bound_low == pytest.approx(17 / 20)
    assert found.bound_high == 1
    assert found.verdict == "better"
    assert play([(1, 1)] * 8 + [(0, None)] * 9).verdict == "not distinguishable"


def test_exact_bounds_are_scipys() -> None:
    for successes, n in ((0, 7), (3, 7), (7, 7), (65, 110)):
        wanted = scipy_stats.binomtest(successes, n).proportion_ci(0.9, method="exact")
        found = compute_exact_interval(successes, n, confidence=0.9)
        assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    assert np.isnan(compute_exact_interval(0, 0).mean)
    with pytest.raises(EvalConfigError, match="expected between 0 and 7 successes, got 8"):
        compute_exact_interval(8, 7)


def test_what_is_no_game_is_refused() -> None:
    with pytest.raises(EvalDataError, match=r"expected a result of 1, 0\.5, 0 or None on item 'a', got 0\.7"):
        SwappedGames(("a",), (0.7,), (1,))
    with pytest.raises(EvalDataError, match=r"expected unique ids, .* got 'a' more than once"):
        SwappedGames(("a", "a"), (1, 1), (1, 1))
    with pytest.raises(UnpairableError, match="expected 2 games of one order, one for each id, got 1"):
        SwappedGames(("a", "b"), (1, 1), (1,))
    with pytest.raises(EvalDataError, match="no item has a result in both orders"):
        play([(1, None), (None, 0)])
