"""Controls: made of the items, blind, seeded, judged by the same path, and never counted among the items."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.errors import EvalConfigError
from eval.exact import is_exact
from eval.judge.assemble import JudgeSpec, open_judge
from eval.judge.controls import FILLER, INJECTIONS, draw_controls, mix_order
from eval.judge.ollama import OllamaClient
from eval.judge.pointwise import PointwiseJudge
from eval.judge.prompt import neutralise
from eval.run import judge_responses
from eval.testing.fake_ollama import ChatCall, FakeOllama, Scenario
from eval.types import CONTROL_KINDS, NO_CONTROLS, PAIRED_KINDS, ControlCounts, ControlKind, Sample

Connect = Callable[..., OllamaClient]
WORDS = ("apple", "river", "stone", "cloud", "lamp", "horse", "paper", "glass", "music", "bread")
SAMPLES = [Sample(f"item-{n}", f"Name thing {n}", "", f"{WORDS[n % 10]} {WORDS[n // 10]} {n} is it") for n in range(40)]
RESPONSES = [SAMPLES[n].reference if n % 4 == 0 else f"{WORDS[n % 10]} maybe {n}" for n in range(40)]
DEFAULT = ControlCounts(10, 10, 5, 5, 5, 5)


def test_the_default_counts_are_drawn_of_suitable_items() -> None:
    drawn = draw_controls(SAMPLES, RESPONSES, counts=DEFAULT, seed=1)
    assert Counter(one.kind for one in drawn) == dict(zip(CONTROL_KINDS, (10, 10, 5, 5, 5, 5), strict=True))
    for one in drawn:
        own = SAMPLES[one.base]
        assert one.sample == own
        assert one.repeat == (one.kind == "repeat")
        if one.kind in ("padded", "repeat"):
            assert one.response.startswith(RESPONSES[one.base])
            assert not is_exact(RESPONSES[one.base], own.reference)
        if one.kind == "injection":
            assert one.pair is not None
            assert (drawn[one.pair].kind, drawn[one.pair].base) == ("mismatch", one.base)
            assert one.response.startswith(f"{drawn[one.pair].response}\n\n")
    by_kind = {kind: [one for one in drawn if one.kind == kind] for kind in CONTROL_KINDS}
    assert all(len({one.base for one in of_kind}) == len(of_kind) for of_kind in by_kind.values())
    assert all(one.response == one.sample.reference for one in by_kind["identity"])
    assert not any(one.response.strip() for one in by_kind["empty"])
    assert {one.response.rpartition("\n\n")[2] for one in by_kind["injection"]} <= {
        text.rpartition("\n\n")[2] for text in INJECTIONS
    }
    for one in by_kind["padded"]:
        added = one.response.removeprefix(RESPONSES[one.base])
        assert 120 <= len(added.split()) < 120 + max(len(sentence.split()) for sentence in FILLER)
    references = {sample.reference for sample in SAMPLES}
    for one in by_kind["mismatch"]:
        assert one.response in references
        assert not set(one.response.split()) & set(one.sample.reference.split()) - {"is", "it"}


def test_the_draw_depends_on_the_seed_and_each_kind_on_its_own_count_alone() -> None:
    one, again, other = (draw_controls(SAMPLES, RESPONSES, counts=DEFAULT, seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    fewer = draw_controls(SAMPLES, RESPONSES, counts=ControlCounts(0, 10, 5, 5, 2, 5), seed=1)
    assert [c for c in one if c.kind == "repeat"] == [c for c in fewer if c.kind == "repeat"]
    assert [c for c in one if c.kind == "padded"][:2] == [c for c in fewer if c.kind == "padded"]


@settings(database=None, deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6)), min_size=1, max_size=8),
    st.integers(0, 12),
    st.integers(),
)
def test_whatever_the_items_no_more_is_drawn_than_they_give(
    texts: list[tuple[str, str]], count: int, seed: int
) -> None:
    samples = [Sample(str(n), "i", "", reference) for n, (reference, _) in enumerate(texts)]
    responses = [response for _, response in texts]
    counts = ControlCounts(*[count] * 6)
    controls = draw_controls(samples, responses, counts=counts, seed=seed)
    drawn = Counter(one.kind for one in controls)
    assert drawn["identity"] == drawn["empty"] == min(count, len(texts))
    assert all(drawn[kind] <= count for kind in CONTROL_KINDS)
    assert drawn["injection"] <= drawn["mismatch"]
    order = mix_order(len(texts), controls, seed=seed)
    assert sorted(order) == list(range(len(texts) + len(controls)))
    assert [i for i in order if i < len(texts)] == list(range(len(texts)))


def test_what_is_repeated_near_the_end_was_asked_near_the_start() -> None:
    drawn = draw_controls(SAMPLES, RESPONSES, counts=DEFAULT, seed=1)
    order = mix_order(len(SAMPLES), drawn, seed=1)
    repeats = [i for i, one in enumerate(drawn) if one.kind == "repeat"]
    for i in repeats:
        asked, again = order.index(drawn[i].base), order.index(len(SAMPLES) + i)
        assert asked < len(order) / 2
        assert again >= len(order) * 3 // 4
    placed = [place for place, i in enumerate(order) if i >= len(SAMPLES) and i - len(SAMPLES) not in repeats]
    assert min(placed) < len(order) / 4
    assert max(placed) > len(order) / 2


def test_one_item_alone_gives_no_wrong_answer() -> None:
    drawn = draw_controls(SAMPLES[1:2], RESPONSES[1:2], counts=DEFAULT, seed=1)
    assert Counter(one.kind for one in drawn) == dict.fromkeys(set(CONTROL_KINDS) - {"mismatch", "injection"}, 1)
    perfect = draw_controls(SAMPLES, [sample.reference for sample in SAMPLES], counts=DEFAULT, seed=1)
    assert {one.kind for one in perfect} == {"identity", "mismatch", "empty", "injection"}


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(EvalConfigError, match="expected 0 or more padded controls, got -1"):
        ControlCounts(padded=-1)


def test_controls_are_told_by_kind_and_leave_the_items_as_they_were() -> None:
    with FakeOllama() as fake, open_judge(JudgeSpec(host=fake.url)) as opened:
        mixed = judge_responses(SAMPLES, RESPONSES, judge=opened.build_pointwise(), controls=DEFAULT)
        n_mixed = len(fake.questions)
        alone = judge_responses(SAMPLES, RESPONSES, judge=opened.build_pointwise(), controls=NO_CONTROLS)
    assert mixed.controls is not None
    assert n_mixed == 30 + 40
    assert [row["score"] for row in mixed.rows] == [row["score"] for row in alone.rows]
    timeless = {name for name in alone.metrics if "seconds" not in name}
    assert {name: mixed.metrics[name] for name in timeless} == {name: alone.metrics[name] for name in timeless}
    controls = mixed.controls
    assert controls.scores["identity"] == [100] * 10
    assert max(controls.scores["mismatch"]) < 50
    assert controls.scores["empty"] == [0] * 5
    assert controls.differences["repeat"] == [0] * 5
    assert all(difference < 0 for difference in controls.differences["padded"])
    assert set(controls.differences) == set(PAIRED_KINDS)
    assert controls.unscored == dict.fromkeys(CONTROL_KINDS, 0)
    assert len(controls.rows) == 40
    assert json.loads(json.dumps(controls.rows)) == controls.rows
    assert mixed.provenance["controls"] == {"identity": 10, "mismatch": 10} | dict.fromkeys(CONTROL_KINDS[2:], 5)
    paired = [row for row in controls.rows if row["kind"] == "injection"]
    assert [row["score"] - row["base_score"] for row in paired] == controls.differences["injection"]
    by_id = {row["id"]: row["score"] for row in mixed.rows}
    wrong = {row["base_id"]: row["score"] for row in controls.rows if row["kind"] == "mismatch"}
    for row in controls.rows:
        assert row["base_score"] == (wrong if row["kind"] == "injection" else by_id)[row["base_id"]]


def test_nothing_that_is_sent_tells_a_control_from_an_item() -> None:
    with FakeOllama() as fake, open_judge(JudgeSpec(host=fake.url)) as opened:
        report = judge_responses(SAMPLES, RESPONSES, judge=opened.build_pointwise(), controls=DEFAULT)
    assert report.controls is not None
    bodies = [call.body for call in fake.questions]
    assert all(body.keys() == bodies[0].keys() for body in bodies)
    assert {body["messages"][0]["content"] for body in bodies} == {bodies[0]["messages"][0]["content"]}
    prompts = [body["messages"][1]["content"] for body in bodies]
    asked = {row["prompt"] for row in report.rows} | {row["prompt"] for row in report.controls.rows}
    assert set(prompts) == asked - {""}
    assert not any(word in prompt.lower() for prompt in prompts for word in ("control", "canary", "mismatch"))
    # Among the items, not before or after them.
    of_controls = {row["prompt"] for row in report.controls.rows}
    places = [i for i, prompt in enumerate(prompts) if prompt in of_controls]
    assert places[0] < 20
    assert places[-1] > len(prompts) - 20
    assert any(b - a > 1 for a, b in itertools.pairwise(places))


def test_a_repeat_is_asked_again_and_shows_a_judge_that_is_not_steady() -> None:
    with FakeOllama(scenario="drifting") as fake, open_judge(JudgeSpec(host=fake.url)) as opened:
        report = judge_responses(SAMPLES, RESPONSES, judge=opened.build_pointwise(), controls=DEFAULT)
    assert report.controls is not None
    assert [abs(difference) for difference in report.controls.differences["repeat"]] == [7] * 5


@pytest.mark.parametrize("kind", CONTROL_KINDS)
def test_a_control_without_a_score_is_counted_and_touches_no_item(connect: Connect, kind: ControlKind) -> None:
    drawn = [one for one in draw_controls(SAMPLES, RESPONSES, counts=DEFAULT, seed=123) if one.kind == kind]
    failing = {(one.sample.reference, neutralise(one.response).text.strip()) for one in drawn}

    def choose(call: ChatCall) -> Scenario:
        return "missing_model" if (call.reference, call.answer.strip()) in failing else "score"

    with FakeOllama(scenario=choose) as fake:
        report = judge_responses(SAMPLES, RESPONSES, judge=PointwiseJudge(connect(fake)), controls=DEFAULT)
    assert report.controls is not None
    assert report.controls.unscored[kind] == len(drawn)
    assert report.controls.scores[kind] == []
    # A repeat fails with the item whose question it asks again.
    assert report.metrics["judge/unscored"] == (len(drawn) if kind == "repeat" else 0)


def test_an_item_without_a_score_leaves_its_pair_out(connect: Connect) -> None:
    padded = [one for one in draw_controls(SAMPLES, RESPONSES, counts=DEFAULT, seed=123) if one.kind == "padded"]

    def choose(call: ChatCall) -> Scenario:
        return "missing_model" if call.answer == RESPONSES[padded[0].base] else "score"

    with FakeOllama(scenario=choose) as fake:
        report = judge_responses(SAMPLES, RESPONSES, judge=PointwiseJudge(connect(fake)), controls=DEFAULT)
    assert report.controls is not None
    assert len(report.controls.scores["padded"]) == 5
    assert len(report.controls.differences["padded"]) == 4
