"""Models side by side: win rates and strengths, known pairs among the items, verdicts that hold together."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.errors import EvalConfigError
from eval.judge.assemble import JudgeSpec, open_judge
from eval.run import compare_responses
from eval.testing.fake_ollama import ChatCall, FakeOllama, Scenario
from eval.tournament import Tournament, count_comparisons, play, weigh
from eval.trust import KNOWN_PAIRS, validate_pairs
from eval.types import Progress, Report, Sample

WORDS = ("apple", "river", "stone", "cloud", "lamp", "horse", "paper", "glass", "music", "bread")
SAMPLES = [
    Sample(f"item-{n:02}", f"Name thing {n}", "", f"{WORDS[n % 10]} {WORDS[n // 10]} {n} indeed") for n in range(40)
]
DICE = random.Random(7)


def say_share(name: str, share: float) -> list[str]:
    """A model that says so large a share of each reference, more or less, and never what another one says."""
    texts = []
    for sample in SAMPLES:
        words = sample.reference.split()
        kept = [word for word in words if DICE.random() < share]
        texts.append(" ".join([*kept, "says", name]))
    return texts


MODELS = {name: say_share(name, share) for name, share in (("weak", 0.2), ("middling", 0.5), ("strong", 0.8))}


@pytest.fixture
def played(tmp_path: Path) -> Callable[..., Tournament]:
    """Plays some of the models through a server with a store of answers."""

    def run(fake: FakeOllama, *names: str, **options: object) -> Tournament:
        with fake, open_judge(JudgeSpec(host=fake.url), store=tmp_path / "answers.jsonl") as opened:
            texts = {name: MODELS[name] for name in names}
            return play(SAMPLES, texts, judge=opened.build_pairwise(), **options)  # type: ignore[arg-type]

    return run


def test_strengths_order_the_models_and_each_pair_has_its_verdict(played: Callable[..., Tournament]) -> None:
    seen: list[Progress] = []
    fake = FakeOllama()
    found = played(fake, "weak", "strong", "middling", on_progress=seen.append)
    assert [(one.candidate, one.baseline) for one in found.matches] == [
        ("strong", "weak"),
        ("middling", "weak"),
        ("middling", "strong"),
    ]
    assert [one.verdict for one in found.matches] == ["better", "better", "worse"]
    assert found.strengths is not None
    assert list(found.strengths.strengths) == ["strong", "middling", "weak"]
    assert found.no_strengths == ""
    assert found.validity.valid
    assert [one.done for one in seen] == list(range(1, count_comparisons(SAMPLES, 3) + 1))
    assert {one.total for one in seen} == {3 * 40 + KNOWN_PAIRS}
    lengths = [one.at_equal_length for one in found.matches]
    assert all(one is not None and 0 <= one.controlled.mean <= 1 for one in lengths)


def test_each_pair_is_shown_in_both_orders_and_known_pairs_are_told_from_nothing(
    played: Callable[..., Tournament],
) -> None:
    fake = FakeOllama()
    found = played(fake, "weak", "strong")
    shown = {(call.texts["INSTRUCTION"], call.texts["ANSWER A"], call.texts["ANSWER B"]) for call in fake.questions}
    assert {(task, second, first) for task, first, second in shown} == shown
    controls = found.matches[0].report.controls
    assert controls is not None
    assert len(controls.rows) == KNOWN_PAIRS
    assert {row["points"] for row in controls.rows} == {1.0}
    known = {row["left"] for row in controls.rows}
    places = [i for i, call in enumerate(fake.questions) if known & {call.texts["ANSWER A"], call.texts["ANSWER B"]}]
    assert places[0] < len(fake.questions) / 4
    assert places[-1] > len(fake.questions) * 3 / 4
    assert len({frozenset(call.body) for call in fake.questions}) == 1


def test_a_judge_that_takes_the_first_answer_is_not_valid_and_prefers_nobody(played: Callable[..., Tournament]) -> None:
    found = played(FakeOllama(scenario="first_slot"), "weak", "strong", "middling")
    assert not found.validity.valid
    assert found.validity.reasons == ("known_won 0.5, must be >= 0.9: the reference loses against wrong answers",)
    assert [one.verdict for one in found.matches] == ["not distinguishable"] * 3
    rate = found.matches[0].rate
    assert rate is not None
    assert (rate.rate.mean, rate.first_slot.mean, rate.consistency.mean) == (0.5, 1.0, 0.0)


def test_pairs_without_a_result_are_counted_and_end_nothing(played: Callable[..., Tournament]) -> None:
    def choose(call: ChatCall) -> Scenario:
        return "missing_model" if call.texts else "score"

    found = played(FakeOllama(scenario=choose), "weak", "strong", "middling")
    assert [one.rate for one in found.matches] == [None] * 3
    assert [one.verdict for one in found.matches] == ["not distinguishable"] * 3
    assert [one.report.metrics["judge/unscored_http_4xx"] for one in found.matches] == [40] * 3
    assert found.strengths is None
    assert "expected games between at least two models" in found.no_strengths
    assert [reason.split()[0] for reason in found.validity.reasons] == ["known_won", "pairs_unscored", "known_unscored"]


def test_two_models_have_a_win_rate_and_no_strengths(played: Callable[..., Tournament]) -> None:
    found = played(FakeOllama(), "weak", "strong")
    assert found.strengths is None
    assert "strengths are for more" in found.no_strengths
    with pytest.raises(EvalConfigError, match="expected at least two models to compare, got 1"):
        played(FakeOllama(), "weak")


def test_models_that_never_lose_to_the_others_have_no_finite_strength_and_it_is_said() -> None:
    texts = [[sample.reference + " all" for sample in SAMPLES], ["none"] * 40, ["nothing at all"] * 40]
    with FakeOllama() as fake, open_judge(JudgeSpec(host=fake.url)) as opened:
        found = play(SAMPLES, dict(zip("abc", texts, strict=True)), judge=opened.build_pairwise())
    assert found.strengths is None
    assert "never both won and lost against each other" in found.no_strengths
    assert found.matches[0].verdict == "worse"


def test_a_second_tournament_asks_nothing_and_a_third_model_only_what_is_new(played: Callable[..., Tournament]) -> None:
    first, again, more = FakeOllama(), FakeOllama(), FakeOllama()
    one = played(first, "weak", "strong")
    same = played(again, "weak", "strong")
    assert again.questions == []
    assert (same.matches[0].rate, same.strengths) == (one.matches[0].rate, one.strengths)
    played(more, "weak", "strong", "middling")
    middling = set(MODELS["middling"])
    assert all(middling & {call.texts["ANSWER A"], call.texts["ANSWER B"]} for call in more.questions)


def test_verdicts_of_a_family_hold_together() -> None:
    """Alone a candidate that wins 18 of 24 is told from even (p 0.023); beside two others it is not."""
    samples = SAMPLES[:24]
    texts = [f"{sample.reference} good" if n < 18 else "bad" for n, sample in enumerate(samples)]
    other = ["bad" if n < 18 else f"{sample.reference} good" for n, sample in enumerate(samples)]
    with FakeOllama() as fake, open_judge(JudgeSpec(host=fake.url)) as opened:
        report = compare_responses(samples, texts, other, judge=opened.build_pairwise())
    [alone] = weigh({("a", "b"): report}, seed=1).matches
    family = weigh({("a", "b"): report, ("c", "b"): report, ("d", "b"): report}, seed=1).matches
    assert 0.01 < alone.p_adjusted <= 0.05
    assert [one.p_adjusted for one in family] == pytest.approx([3 * alone.p_adjusted] * 3)
    assert [alone.verdict, *(one.verdict for one in family)] == ["better", *["not distinguishable"] * 3]


def test_without_known_pairs_nothing_is_known_of_the_judge() -> None:
    found = validate_pairs([Report({}, [{"points": 1.0}], {})])
    assert not found.valid
    assert [check.name for check in found.checks if not check.passed] == ["known_won", "known_unscored"]
