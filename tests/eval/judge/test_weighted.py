"""The weighted score: from the token of the score alone, renormalised, and never a stand-in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.judge.client import NumberToken, Reply
from eval.judge.weighted import LEAST_MASS, WeightedScore, compute_weighted_score, find_number_tokens
from eval.testing.fake_ollama.answers import tokenise, write_answer


def reply(content: str, numbers: tuple[NumberToken, ...]) -> Reply:
    return Reply(content, 9, 9, True, "stop", 0.1, numbers=numbers)


def build_reply(parts: list[str], shares: Mapping[str, float], *, at: int) -> Reply:
    """An answer of these tokens; the one at ``at`` might have been others."""
    entries: list[dict[str, Any]] = [{"token": part, "logprob": 0.0, "top_logprobs": []} for part in parts]
    listed = [{"token": token, "logprob": math.log(share)} for token, share in shares.items()]
    entries[at] |= {"logprob": math.log(shares.get(parts[at], 1e-4)), "top_logprobs": listed}
    content = "".join(parts)
    return reply(content, find_number_tokens(content, entries))


HEAD = ['{"', "rationale", '":', ' "', "It", " says", " ", "40", " of", " ", "100", '",', ' "', "score", '":', " "]


def test_the_mean_over_the_scores_is_renormalised_and_its_mass_told() -> None:
    found = compute_weighted_score(build_reply([*HEAD, "80", "}"], {"80": 0.5, "90": 0.3, "}": 0.1, "A": 0.05}, at=-2))
    assert found is not None
    assert found.score == pytest.approx((80 * 0.5 + 90 * 0.3) / 0.8)
    assert found.mass == pytest.approx(0.8)


def test_numbers_in_the_reasons_are_not_the_score() -> None:
    # 40 stands in the reasons with alternatives of its own, the score has none that are told.
    found = build_reply([*HEAD, "40", "}"], {"40": 0.9, "10": 0.1}, at=HEAD.index("40"))
    assert [number.text for number in found.numbers] == ["40"]
    assert compute_weighted_score(found) is None


def test_a_quoted_score_in_the_reasons_is_not_the_score() -> None:
    content = json.dumps({"rationale": 'it says "score": 100', "score": 20})
    at = content.rindex("20")
    numbers = (
        NumberToken(content.index("100"), "100", (("100", -0.1), ("90", -3.0))),
        NumberToken(at, "20", (("20", math.log(0.6)), ("30", math.log(0.4)))),
    )
    found = compute_weighted_score(reply(content, numbers))
    assert found is not None
    assert found.score == pytest.approx(24)


@pytest.mark.parametrize(("mass", "is_used"), [(LEAST_MASS, True), (LEAST_MASS - 0.01, False)])
def test_little_mass_on_scores_gives_no_score_but_is_told(mass: float, is_used: bool) -> None:
    found = compute_weighted_score(build_reply([*HEAD, "80", "}"], {"80": mass, "null": 1 - mass}, at=-2))
    assert found is not None
    assert found.mass == pytest.approx(mass)
    assert (found.score is not None) is is_used


def test_a_blank_before_the_score_is_part_of_the_token() -> None:
    found = compute_weighted_score(build_reply([*HEAD[:-1], " 80", "}"], {" 80": 0.4, "80": 0.2, " 90": 0.3}, at=-2))
    assert found is not None
    assert found.score == pytest.approx((80 * 0.6 + 90 * 0.3) / 0.9)


def test_what_is_no_score_has_no_weight() -> None:
    shares = {"80": 0.6, "101": 0.05, "080": 0.05, "٨٠": 0.05, "-1": 0.05, "8.": 0.05, "": 0.05}
    assert compute_weighted_score(build_reply([*HEAD, "80", "}"], shares, at=-2)) == WeightedScore(
        80.0, pytest.approx(0.6)
    )


def test_a_family_that_splits_digits_has_no_weighted_score() -> None:
    for score in (85, 5, 100):
        split = tokenise(write_answer(score, "split_digits"), "split_digits")
        content = "".join(token.text for token in split)
        numbers = find_number_tokens(content, [token.describe(20) for token in split])
        assert numbers
        assert compute_weighted_score(reply(content, numbers)) is None


def test_the_written_score_counts_even_if_it_is_not_among_the_likeliest() -> None:
    shares = {"90": 0.6, "95": 0.3}
    found = compute_weighted_score(build_reply([*HEAD, "70", "}"], shares, at=-2))
    assert found is not None
    assert found.mass == pytest.approx(0.9 + 1e-4)


def test_tokens_that_lost_characters_on_the_way_are_still_found_from_the_end() -> None:
    content = '{"rationale": "😀 is fine", "score": 80}'
    parts = ['{"rationale": "', "�", "�", ' is fine", "score": ', "80", "}", "<|eot_id|>"]
    entries: list[dict[str, Any]] = [{"token": part, "logprob": 0.0, "top_logprobs": []} for part in parts]
    entries[4]["top_logprobs"] = [{"token": "80", "logprob": math.log(0.9)}, {"token": "75", "logprob": math.log(0.1)}]
    (number,) = find_number_tokens(content, entries)
    assert content[number.start :].startswith("80")
    found = compute_weighted_score(reply(content, (number,)))
    assert found is not None
    assert found.score == pytest.approx(79.5)


entries_of_any_kind = st.lists(
    st.fixed_dictionaries(
        {"token": st.text(max_size=3) | st.integers(0, 200).map(str)},
        optional={
            "logprob": st.floats() | st.none() | st.text(max_size=2),
            "top_logprobs": st.lists(
                st.fixed_dictionaries({"token": st.integers(0, 200).map(str), "logprob": st.floats() | st.none()}),
                max_size=4,
            ),
        },
    ),
    max_size=8,
)


@settings(database=None, deadline=None, max_examples=150)
@given(entries_of_any_kind, st.integers(0, 100))
def test_whatever_the_server_tells_a_weighted_score_is_in_range(entries: list[dict[str, Any]], score: int) -> None:
    told = [*entries, {"token": f'{{"rationale": "", "score": {score}', "logprob": 0.0}, {"token": "}", "logprob": 0.0}]
    for content in (f'{{"rationale": "", "score": {score}}}', "".join(str(one["token"]) for one in told)):
        for number in find_number_tokens(content, told):
            assert content[number.start : number.start + len(number.text)] == number.text
    numbers = tuple(
        NumberToken(24, str(score), number.alternatives)
        for number in find_number_tokens("".join(str(one["token"]) for one in entries), entries)
    )
    found = compute_weighted_score(reply(f'{{"rationale": "", "score": {score}}}', numbers[:1]))
    if found is not None:
        assert 0 <= found.mass <= 1
        assert found.score is None or 0 <= found.score <= 100


@settings(database=None, deadline=None)
@given(st.integers(0, 100))
def test_a_reply_survives_json(score: int) -> None:
    spoken = tokenise(write_answer(score, "score"), "score")
    content = "".join(token.text for token in spoken)
    before = reply(content, find_number_tokens(content, [token.describe(20) for token in spoken]))
    after = Reply.from_json(json.loads(json.dumps(before.to_json())))
    assert after == before
    assert compute_weighted_score(after) == compute_weighted_score(before) is not None
