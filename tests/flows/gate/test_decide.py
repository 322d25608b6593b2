"""The gate's decision on values: each verdict, each demand, and what must not change it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eval.errors import IncomparableError
from flows.gate.decide import Decision, Row, decide
from flows.gate.evidence import Evidence, Variant
from flows.gate.policy import LOWER_IS_BETTER, Budget, GatePolicy, Measure
from flows.gate.table import html, markdown, metrics, table_rows
from gptcore.errors import DataError

INSTRUMENT: dict[str, Any] = {"items": "abc", "judge": {"state": "scored", "digest": "d1", "prompts": "p1"}}
N = 60
POLICY = GatePolicy()
BASES: dict[Measure, float] = {"judge": 60.0, "answers": 1.5, "rouge_l": 0.3, "accuracy": 0.8, "text": 2.0}
SPREADS: dict[Measure, float] = {"judge": 10.0, "answers": 0.3, "rouge_l": 0.1, "accuracy": 0.0, "text": 0.2}
NOISE: dict[Measure, float] = {"judge": 2.0, "answers": 0.02, "rouge_l": 0.02, "accuracy": 0.0, "text": 0.02}


def evidence(model: str, better: Mapping[Measure, float] | None = None, **changes: Any) -> Evidence:
    """Items of one kind of spread; ``better`` lifts a measure's values by so much of what is good."""
    values: dict[Measure, dict[str, float | None]] = {}
    for measure, base in BASES.items():
        items, own = random.Random(measure), random.Random(f"{measure} {model}")
        lift = (better or {}).get(measure, 0.0) * (-1 if measure in LOWER_IS_BETTER else 1)
        values[measure] = {
            str(i): base + items.gauss(0, SPREADS[measure]) + own.gauss(0, NOISE[measure]) + lift for i in range(N)
        }
    return Evidence(model, INSTRUMENT, values, **changes)


CHAMPION = evidence("champion")


def row(decision: Decision, kind: str, name: str) -> Row:
    return next(row for row in decision.rows if (row.kind, row.name) == (kind, name))


def test_a_better_model_is_promoted_and_the_reason_says_by_how_much() -> None:
    decision = decide(evidence("new", {"judge": 8.0}), CHAMPION, policy=POLICY)
    assert decision.verdict == "promote"
    assert decision.reason.startswith("judge is better by ")
    primary = row(decision, "primary", "judge")
    assert primary.low is not None
    assert 0 < primary.low < (primary.difference or 0)
    assert primary.n == N


def test_the_same_model_is_rejected_as_no_better() -> None:
    decision = decide(replace(CHAMPION, model="copy"), CHAMPION, policy=POLICY)
    assert (decision.verdict, row(decision, "primary", "judge").outcome) == ("reject", "failed")
    assert "no better: within 2 points of the champion" in decision.reason


def test_a_worse_model_is_rejected() -> None:
    decision = decide(evidence("new", {"judge": -8.0}), CHAMPION, policy=POLICY)
    assert decision.verdict == "reject"
    assert "primary judge: worse by" in decision.reason


def test_a_difference_that_may_be_chance_decides_nothing_and_says_what_the_items_can_show() -> None:
    noisy = {item: (value or 0) + random.Random(item).gauss(2, 30) for item, value in CHAMPION.values["judge"].items()}
    decision = decide(replace(CHAMPION, values={**CHAMPION.values, "judge": noisy}), CHAMPION, policy=POLICY)
    assert decision.verdict == "inconclusive"
    assert f"{N} items detect a difference of" in decision.reason


@pytest.mark.parametrize("side", ["challenger", "champion"])
def test_an_invalid_judge_decides_nothing_however_good_its_scores(side: str) -> None:
    broken = ("auc 0.6, must be >= 0.95: right is not told from wrong",)
    new, old = evidence("new", {"judge": 20.0}), CHAMPION
    new, old = (
        (replace(new, judge_invalid=broken), old) if side == "challenger" else (new, replace(old, judge_invalid=broken))
    )
    decision = decide(new, old, policy=POLICY)
    assert decision.verdict == "inconclusive"
    assert "right is not told from wrong" in decision.reason


def test_a_judge_that_nothing_is_asked_of_may_be_invalid() -> None:
    policy = GatePolicy(primary="answers", margins={"text": 0.05})
    new = replace(evidence("new", {"answers": 0.2}), judge_invalid=("it wavers",))
    decision = decide(new, CHAMPION, policy=policy)
    assert (decision.verdict, row(decision, "judge", "validity").outcome) == ("promote", "shown")


def test_models_measured_otherwise_are_not_compared() -> None:
    other = {**INSTRUMENT, "judge": {**INSTRUMENT["judge"], "prompts": "p2"}, "decoding": {"max_new_tokens": 9}}
    with pytest.raises(IncomparableError) as refusal:
        decide(replace(CHAMPION, instrument=other), CHAMPION, policy=POLICY)
    assert "judge.prompts: 'p1' against 'p2'" in str(refusal.value)
    assert "decoding: 'absent' against" in str(refusal.value)


def test_the_first_model_must_only_meet_floors_and_budgets() -> None:
    first = evidence("first", judge_invalid=("it wavers",))
    decision = decide(first, None, policy=POLICY)
    assert decision.verdict == "promote"
    assert {one.kind for one in decision.rows} == {"floor"}
    refused = decide(first, None, policy=GatePolicy(floors={"accuracy": 0.9, "text": 8.0}))
    assert (refused.verdict, refused.reason) == ("reject", "floor accuracy: expected at least 0.9 share, got 0.8")


def test_a_floor_counts_for_every_model() -> None:
    decision = decide(evidence("new", {"judge": 8.0}), CHAMPION, policy=GatePolicy(floors={"text": 1.0}))
    assert decision.verdict == "reject"
    assert "floor text" in decision.reason


@pytest.mark.parametrize(("loss", "verdict"), [(0.0, "promote"), (0.5, "reject")])
def test_a_guardrail_may_not_fall(loss: float, verdict: str) -> None:
    decision = decide(evidence("new", {"judge": 8.0, "text": -loss}), CHAMPION, policy=POLICY)
    assert decision.verdict == verdict
    assert row(decision, "guardrail", "text").outcome == ("passed" if verdict == "promote" else "failed")


def test_a_guardrail_that_may_have_fallen_decides_nothing() -> None:
    decision = decide(evidence("new", {"judge": 8.0, "text": -POLICY.margins["text"]}), CHAMPION, policy=POLICY)
    assert (decision.verdict, row(decision, "guardrail", "text").outcome) == ("inconclusive", "undecided")


def test_a_challenger_that_lost_an_ability_is_rejected_and_one_that_gained_one_is_not() -> None:
    without = {name: items for name, items in CHAMPION.values.items() if name != "accuracy"}
    new = evidence("new", {"judge": 8.0})
    poorer = replace(new, values={name: items for name, items in new.values.items() if name != "accuracy"})
    assert "not on the challenger" in decide(poorer, CHAMPION, policy=POLICY).reason
    assert decide(new, replace(CHAMPION, values=without), policy=POLICY).verdict == "promote"


def test_budgets_of_size_and_speed_refuse_a_better_model() -> None:
    variants = (Variant("int8", 2_000, 0.5, 90.0, 0.01), Variant("int4", 1_000, 0.25, 80.0, 0.05))
    new = evidence("new", {"judge": 8.0}, variants=variants)
    assert decide(new, CHAMPION, policy=POLICY).verdict == "promote"
    tight = {"int8": Budget(max_bytes=1_500, min_tokens_per_second=100.0), "int4": Budget(max_increase=0.04)}
    decision = decide(new, CHAMPION, policy=GatePolicy(budgets=tight))
    assert decision.verdict == "reject"
    for text in ("int8 size: expected at most 1,500 bytes, got 2,000", "tokens/s, got 90", "share, got 0.05"):
        assert text in decision.reason
    absent = decide(new, None, policy=GatePolicy(budgets={"int2": Budget(max_share=0.1)}))
    assert "expected one of the variants int8, int4, got " in absent.reason


def test_without_a_judge_the_reference_answers_decide() -> None:
    values = {name: items for name, items in evidence("new", {"answers": 0.2}).values.items() if name != "judge"}
    decision = decide(Evidence("new", INSTRUMENT, values), replace(CHAMPION), policy=POLICY)
    assert decision.verdict == "reject"  # the champion was judged
    old = {name: items for name, items in CHAMPION.values.items() if name != "judge"}
    decision = decide(Evidence("new", INSTRUMENT, values), Evidence("old", INSTRUMENT, old), policy=POLICY)
    assert (decision.verdict, row(decision, "primary", "answers").outcome) == ("promote", "passed")


def test_too_few_pairs_decide_nothing() -> None:
    few = {name: dict(list(items.items())[:5]) for name, items in evidence("new", {"judge": 20.0}).values.items()}
    decision = decide(Evidence("new", INSTRUMENT, few), CHAMPION, policy=POLICY)
    assert decision.verdict == "inconclusive"
    assert "expected at least 10 pairs of items, got 5" in decision.reason


def test_unscored_items_that_could_turn_the_difference_decide_nothing() -> None:
    new = evidence("new", {"judge": 3.0})
    scores = {item: None if int(item) < 6 else value for item, value in new.values["judge"].items()}
    decision = decide(replace(new, values={**new.values, "judge": scores}), CHAMPION, policy=POLICY)
    assert decision.verdict == "inconclusive"
    assert "the unscored items alone could make it -" in decision.reason


def test_a_person_is_asked_only_about_what_would_be_promoted() -> None:
    policy = GatePolicy(require_approval=True)
    assert decide(evidence("new", {"judge": 8.0}), CHAMPION, policy=policy).verdict == "needs_approval"
    assert decide(evidence("new", {"judge": -8.0}), CHAMPION, policy=policy).verdict == "reject"


def test_the_order_of_the_items_changes_nothing() -> None:
    new, policy = evidence("new", {"answers": 0.01}), GatePolicy(primary="answers", margins={})
    expected = decide(new, CHAMPION, policy=policy)
    for seed in range(3):
        order = random.Random(seed).sample(range(N), N)
        shuffled = {name: {str(i): items[str(i)] for i in order} for name, items in new.values.items()}
        assert decide(replace(new, values=shuffled), CHAMPION, policy=policy) == expected


def test_evidence_survives_json_and_a_broken_file_is_refused(tmp_path: Path) -> None:
    found = evidence("new", judge_invalid=("it wavers",), variants=(Variant("int8", 1, 0.5, 2.0, 0.0),))
    found.save(tmp_path / "evidence.json")
    again = Evidence.load(tmp_path / "evidence.json")
    assert again == found
    assert again.key == found.key
    (tmp_path / "evidence.json").write_text("{}")
    with pytest.raises(DataError, match="holds no evidence of a gate"):
        Evidence.load(tmp_path / "evidence.json")


def test_every_row_is_in_every_form_of_the_table_and_texts_are_escaped() -> None:
    decision = decide(evidence("new", {"judge": 8.0}), CHAMPION, policy=POLICY)
    hostile = replace(decision, reason="<script>", rows=(*decision.rows, replace(decision.rows[0], note="<b>|x")))
    assert len(table_rows(hostile)) == len(hostile.rows)
    page, text = html(hostile, title="m"), markdown(hostile, title="m")
    assert page.count("<tr>") == len(hostile.rows) + 1
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    assert text.count("\n|") == len(hostile.rows) + 2
    assert "<b>\\|x" in text
    assert metrics(decision)["primary/judge/difference"] == row(decision, "primary", "judge").difference


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"floors": {"text": -1.0}}, "expected 0 or more bits/byte, got -1.0"),
        ({"primary": "loss"}, "Input should be"),
        ({"margin": {}}, "Extra inputs are not permitted"),
    ],
)
def test_an_impossible_policy_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GatePolicy(**change)
