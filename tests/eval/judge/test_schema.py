"""The reader of outputs is total and takes nothing for a score that is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eval.judge.client import Reply
from eval.judge.schema import VERDICT_SCHEMA, Scored, Unreadable, read_output, read_reply

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
near_misses = st.fixed_dictionaries({"rationale": json_values, "score": json_values})


def reply(content: str, **changes: object) -> Reply:
    fields = {"prompt_tokens": 10, "answer_tokens": 10, "done": True, "done_reason": "stop", "seconds": 0.1}
    return Reply(content=content, **{**fields, **changes})  # type: ignore[arg-type]


@settings(database=None, deadline=None, max_examples=150)
@given(st.one_of(st.text(), json_values.map(json.dumps), near_misses.map(json.dumps)))
@example("[" * 100_000)
@example('{"rationale": "x", "score": ' + "9" * 5000 + "}")
@example('{"rationale": "\\ud800", "score": 5}')
@example('{"rationale": "x", "score": NaN}')
@example("\ud800")
def test_whatever_the_text_reading_returns_a_score_in_range_or_a_reason(text: str) -> None:
    found = read_output(text)
    if isinstance(found, Scored):
        assert type(found.score) is int
        assert 0 <= found.score <= 100
        found.rationale.encode("utf-8")
        assert json.loads(text)["score"] == found.score
    else:
        assert found.reason in {"bad_json", "schema"}
        assert found.detail


@settings(database=None, deadline=None)
@given(st.text(), st.integers(0, 100))
def test_every_output_of_the_schema_is_read_as_it_is(rationale: str, score: int) -> None:
    found = read_output(json.dumps({"rationale": rationale, "score": score}))
    assert isinstance(found, Scored)
    assert (found.score, found.rationale_first) == (score, True)
    assert found.rationale == rationale


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("85", "schema"),
        ('Score: {"rationale": "x", "score": 85}', "bad_json"),
        ('{"rationale": "x", "score": 85} done', "bad_json"),
        ('{"rationale": "x", "score": "85"}', "schema"),
        ('{"rationale": "x", "score": 85.0}', "schema"),
        ('{"rationale": "x", "score": 101}', "schema"),
        ('{"rationale": "x", "score": -1}', "schema"),
        ('{"rationale": "x", "score": true}', "schema"),
        ('{"rationale": "x", "score": null}', "schema"),
        ('{"score": 85}', "schema"),
        ('{"rationale": "x", "score": 85, "final_score": 100}', "schema"),
        ('{"rationale": "x", "score": 5, "score": 100}', "schema"),
        ('[{"rationale": "x", "score": 85}]', "schema"),
    ],
)
def test_near_misses_are_no_scores(text: str, reason: str) -> None:
    found = read_output(text)
    assert isinstance(found, Unreadable)
    assert found.reason == reason


def test_a_reply_is_judged_by_its_end_before_its_text() -> None:
    good = '{"rationale": "x", "score": 85}'
    outcomes = {
        "length": read_reply(reply(good, done_reason="length")),
        "not_done": read_reply(reply(good, done=False)),
        "empty": read_reply(reply(" \n ", thinking="hmm")),
    }
    assert {name: found.reason for name, found in outcomes.items() if isinstance(found, Unreadable)} == {
        name: name for name in outcomes
    }
    assert isinstance(read_reply(reply(good)), Scored)


def test_a_score_before_its_reasons_is_noticed() -> None:
    found = read_output('{"score": 5, "rationale": "x"}')
    assert found == Scored(5, "x", rationale_first=False)


def test_the_wanted_order_of_keys_is_also_the_alphabetical_one() -> None:
    assert list(VERDICT_SCHEMA["properties"]) == sorted(VERDICT_SCHEMA["properties"]) == VERDICT_SCHEMA["required"]
