"""A panel of judges, models side by side, and a judge that is lost: the evaluate stage beyond one judge's scores."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from eval.errors import JudgeModelMissing, JudgeUnavailable
from eval.testing.fake_ollama import ChatCall, FakeOllama, Scenario
from eval.testing.fake_ollama.answers import score_overlap
from eval.types import Progress as Asked
from flows.progress import SECONDS_LEFT, TimeLeft
from flows.recipes.resolve import resolve
from flows.stages.evaluate import body as evaluation
from flows.stages.evaluate.recipe import EvaluateStage
from flows.stages.judge.sitting import adapt_progress
from gptcore.errors import ConfigError
from gptcore.files import read_json_lines
from gptcore.train import Progress

pytestmark = pytest.mark.flows


def strict_score(answer: str, reference: str) -> int:
    return score_overlap(answer, reference) ** 2 // 100


def test_a_panel_scores_the_same_items_and_tells_how_far_it_agrees(judged: Any) -> None:
    with FakeOllama(others={"phi3:mini": strict_score}) as server:
        result, run, folder = judged(server, judge_panel=("phi3:mini",))
    judge, metrics = result.judge, run.data.metrics
    assert (judge["state"], judge["valid"]) == ("scored", True)
    agreement = judge["panel"]["agreement"]["instruct"]
    assert 0 < metrics["judge/panel/alpha_low"] <= metrics["judge/panel/alpha"] == agreement["alpha"]["mean"] < 1
    assert metrics["judge/panel/llama3_latest_and_phi3_mini/spearman"] == pytest.approx(1)
    assert metrics["judge/panel/mean_spearman"] == pytest.approx(1)
    assert metrics["judge/panel/phi3_mini/mean"] < metrics["judge/panel/llama3_latest/mean"] == metrics["judge/mean"]
    assert metrics["judge/panel/phi3_mini/valid"] == 1
    assert list(judge["panel"]["judges"]) == ["llama3:latest", "phi3:mini"]
    assert judge["panel"]["judges"]["phi3:mini"]["verdicts"] == {"instruct": "better"}
    assert run.data.tags["gptworks.judge.panel"] == "llama3:latest, phi3:mini"
    assert run.data.params["judge.panel.phi3_mini.model_digest"] == server.digests["phi3:mini"]
    others = read_json_lines(folder / "judge" / "panel.jsonl")
    assert {row["judge"] for row in others} == {"phi3:mini"}
    assert len([row for row in others if "kind" not in row]) == 2 * 24


def test_a_panel_is_asked_whole_or_not_at_all() -> None:
    config = {"judge_panel": ("phi3:mini",)}
    with FakeOllama() as server:
        state = evaluation.judge_state(EvaluateStage(**config), server.url)
        assert state["state"] == "skipped"
        assert "has no model 'phi3:mini'" in state["reason"]
        with pytest.raises(JudgeModelMissing):
            evaluation.judge_state(EvaluateStage(judge="required", **config), server.url)
    with FakeOllama(others={"phi3:mini": strict_score}) as server:
        both = evaluation.judge_state(EvaluateStage(**config), server.url)
        alone = evaluation.judge_state(EvaluateStage(), server.url)
    assert both["digest"] == f"{alone['digest']}+{server.digests['phi3:mini']}"
    with pytest.raises(ConfigError, match="name each judge once"):
        resolve("tiny", overrides=["evaluate.judge_panel=phi3:mini,llama3"])


def test_models_are_shown_side_by_side_and_ranked(judged: Any) -> None:
    with FakeOllama() as server:
        result, run, folder = judged(server, lora=True, judge_models=("instruct", "base", "lora"), pairwise=True)
    pairs, metrics = result.judge["pairs"], run.data.metrics
    assert [(one["candidate"], one["baseline"]) for one in pairs["matches"]] == [
        ("instruct", "base"),
        ("lora", "base"),
        ("lora", "instruct"),
    ]
    assert metrics["judge/pairs/valid"] == metrics["judge/pairs/control/known_won"] == 1
    assert 0.5 < metrics["judge/pairs/instruct_over_base/ci_low"] <= metrics["judge/pairs/instruct_over_base/win_rate"]
    assert metrics["judge/pairs/instruct_over_base/verdict"] == 1
    assert run.data.tags["gptworks.judge.pairs.instruct_over_base"] == "better"
    assert run.data.params["judge.pairs.mode"] == "pairwise"
    assert (pairs["strengths"] is None) == bool(pairs["no_strengths"])
    rows = read_json_lines(folder / "judge" / "pairs.jsonl")
    assert len([row for row in rows if "kind" not in row]) == 3 * 24
    assert all(len(row["orders"]) == 2 for row in rows if row["source"] == "judge")
    assert (folder / "judge" / "pairwise_rubric_system.md").is_file()


def test_models_that_are_all_tied_have_no_strengths_and_it_is_said(judged: Any) -> None:
    with FakeOllama(prefer=lambda _: "TIE") as server:
        result, run, _ = judged(server, lora=True, judge_models=("instruct", "base", "lora"), pairwise=True)
    pairs = result.judge["pairs"]
    assert pairs["strengths"] is None
    assert "items came out alike" in pairs["no_strengths"]
    assert run.data.metrics["judge/pairs/valid"] == 0  # nor does it prefer the reference to a wrong answer


def test_figures_at_equal_length_are_metrics(judged_well: Any) -> None:
    metrics = judged_well()[1].data.metrics
    for prefix in ("", "base/"):
        low, high = (metrics[f"{prefix}judge/length_controlled_{end}"] for end in ("low", "high"))
        assert low <= metrics[f"{prefix}judge/length_controlled_mean"] <= high
        assert metrics[f"{prefix}judge/length_extrapolated"] in (0, 1)
    assert math.isfinite(metrics["judge/instruct_over_base/length_controlled"])
    assert math.isfinite(metrics["judge/instruct_over_base/length_slope"])


def test_a_judge_that_is_lost_before_the_stage_is_skipped_unless_it_is_required(judged: Any) -> None:
    with FakeOllama() as server:
        state = evaluation.judge_state(EvaluateStage(), server.url)
    assert state["state"] == "scored"
    result, run, _ = judged(server, state=state)
    assert result.judge["state"] == "skipped"
    assert result.judge["reason"].startswith("the judge was lost: no Ollama at ")
    assert result.judge["reason"].endswith("run the same command with --force once it is back")
    assert run.data.tags["gptworks.judge"].startswith("skipped the judge was lost")
    assert run.data.metrics["test/rouge_l"] > 0
    with pytest.raises(JudgeUnavailable, match="no Ollama at"):
        judged(server, state=state, judge="required")


def test_a_judge_whose_weights_change_in_the_stage_is_skipped(judged: Any) -> None:
    with FakeOllama(scenario=lambda call: "digest_moves" if call.index == 20 else "score") as server:
        result, _, _ = judged(server)
    assert result.judge["state"] == "skipped"
    assert "the judge was lost" in result.judge["reason"]


def test_a_judge_that_dies_in_the_stage_ends_as_not_validated_with_its_failures_counted(judged: Any) -> None:
    def choose(call: ChatCall) -> Scenario:
        return "score" if call.index < 30 else "missing_model"

    with FakeOllama(scenario=choose) as server:
        result, run, _ = judged(server, judge_panel=(), pairwise=True)
    judge = result.judge
    assert judge["state"] == "judge not validated"
    assert "too many items have no score" in judge["reason"]
    assert run.data.metrics["judge/unscored_http_4xx"] == judge["unscored"] > 0
    assert run.data.metrics["judge/pairs/valid"] == 0
    assert judge["pairs"]["matches"][0]["rate"] is None


def test_the_time_left_is_the_stages_own_where_it_reckons_it() -> None:
    bars = Bars(TimeLeft(), console=Console(file=io.StringIO(), width=80))
    fields: tuple[dict[str, Any], ...] = ({SECONDS_LEFT: 3675.0}, {SECONDS_LEFT: math.nan}, {})
    known, unknown, other = (bars.add_task("x", total=10, **each) for each in fields)
    shown = {task.id: str(TimeLeft().render(task)) for task in bars.tasks}
    assert (shown[known], shown[unknown], shown[other]) == ("1:01:15", "-:--:--", "-:--:--")


def test_what_is_told_of_the_time_left_is_unknown_until_the_judge_has_answered() -> None:
    seen: list[Progress] = []
    on_questions = adapt_progress(seen.append)
    on_questions(Asked(1, 3, None))
    on_questions(Asked(2, 3, 4.0))
    assert math.isnan(seen[0].metrics[SECONDS_LEFT])
    assert [(one.step, one.n_steps) for one in seen] == [(1, 3), (2, 3)]
    assert seen[1].metrics == {SECONDS_LEFT: 4.0}
