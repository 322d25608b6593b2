"""The reader of outputs is total and takes nothing for a verdict that is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eval.judge.client import Reply
from eval.judge.schema import (
    PAIRWISE,
    POINTWISE,
    Form,
    ReadableOutput,
    UnreadableOutput,
    find_fault,
    read_output,
    read_reply,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
near_misses = st.fixed_dictionaries({"rationale": json_values, "score": json_values})
near_choices = st.fixed_dictionaries({"rationale": st.text(), "verdict": json_values | st.sampled_from("ABab")})


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
    found = read_output(text, POINTWISE)
    if isinstance(found, ReadableOutput):
        assert type(found.value) is int
        assert 0 <= found.value <= 100
        found.rationale.encode("utf-8")
        assert json.loads(text)["score"] == found.value
    else:
        assert found.reason in {"bad_json", "schema"}
        assert found.detail


@settings(database=None, deadline=None, max_examples=150)
@given(st.one_of(st.text(), json_values.map(json.dumps), near_choices.map(json.dumps)))
@example('{"rationale": "x", "verdict": ["A"]}')
def test_whatever_the_text_reading_returns_a_choice_or_a_reason(text: str) -> None:
    found = read_output(text, PAIRWISE)
    if isinstance(found, ReadableOutput):
        assert found.value in ("A", "B", "TIE")
        assert json.loads(text)["verdict"] == found.value
    else:
        assert found.reason in {"bad_json", "schema"}


@settings(database=None, deadline=None)
@given(st.text(), st.integers(0, 100), st.sampled_from(["A", "B", "TIE"]))
def test_every_output_of_the_form_is_read_as_it_is(rationale: str, score: int, choice: str) -> None:
    for form, value in ((POINTWISE, score), (PAIRWISE, choice)):
        found = read_output(json.dumps({"rationale": rationale, form.key: value}), form)
        assert isinstance(found, ReadableOutput)
        assert (found.value, found.rationale, found.rationale_first) == (value, rationale, True)


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
        ('{"rationale": "x", "verdict": "A"}', "schema"),
    ],
)
def test_near_misses_are_no_scores(text: str, reason: str) -> None:
    found = read_output(text, POINTWISE)
    assert isinstance(found, UnreadableOutput)
    assert found.reason == reason


@pytest.mark.parametrize("verdict", ['"a"', '"A "', '"C"', '"A>B"', '"tie"', '["A"]', "1", "null"])
def test_near_misses_are_no_choices(verdict: str) -> None:
    found = read_output(f'{{"rationale": "x", "verdict": {verdict}}}', PAIRWISE)
    assert isinstance(found, UnreadableOutput)
    assert found.reason == "schema"


@pytest.mark.parametrize(
    ("form", "good"), [(POINTWISE, '{"rationale": "x", "score": 85}'), (PAIRWISE, '{"rationale": "x", "verdict": "B"}')]
)
def test_a_reply_is_judged_by_its_end_before_its_text(form: Form, good: str) -> None:
    outcomes = {
        "length": read_reply(reply(good, done_reason="length"), form),
        "not_done": read_reply(reply(good, done=False), form),
        "empty": read_reply(reply(" \n ", thinking="hmm"), form),
    }
    assert {name: found.reason for name, found in outcomes.items() if isinstance(found, UnreadableOutput)} == {
        name: name for name in outcomes
    }
    assert isinstance(read_reply(reply(good), form), ReadableOutput)
    assert find_fault(reply(good), form.schema) is None
    assert find_fault(reply("{}"), form.schema) == "schema"


def test_a_score_before_its_reasons_is_noticed() -> None:
    found = read_output('{"score": 5, "rationale": "x"}', POINTWISE)
    assert found == ReadableOutput(5, "x", rationale_first=False)


@pytest.mark.parametrize("form", [POINTWISE, PAIRWISE])
def test_the_wanted_order_of_keys_is_also_the_alphabetical_one(form: Form) -> None:
    assert list(form.schema["properties"]) == sorted(form.schema["properties"]) == form.schema["required"]


def test_a_schema_with_its_keys_turned_is_another() -> None:
    turned = {**POINTWISE.schema, "properties": dict(reversed(POINTWISE.schema["properties"].items()))}
    assert Form("pointwise", "score", turned, POINTWISE.model).digest != POINTWISE.digest
