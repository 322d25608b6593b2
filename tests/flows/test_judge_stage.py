"""The evaluate stage with a judge: the judge weighed by its controls, models compared, everything tracked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.errors import EvalConfigError
from eval.testing.fake_ollama import FakeOllama
from flows.recipes.resolve import resolve
from flows.report.page import summary_rows, write_report
from flows.stages.evaluate import body as evaluation
from flows.stages.evaluate.recipe import EvaluateStage
from flows.stages.outcome import PipelineReport
from gptcore.errors import ConfigError
from gptcore.files import read_json_lines

pytestmark = pytest.mark.flows


def test_a_sound_judge_is_valid_and_tells_the_tuned_model_from_its_base(judged_well: Any) -> None:
    result, run, folder = judged_well()
    judge, metrics = result.judge, run.data.metrics
    assert (judge["state"], judge["valid"], judge["reason"]) == ("scored", True, "")
    assert metrics["judge/valid"] == metrics["base/judge/valid"] == 1
    assert metrics["judge/ci_low"] < metrics["judge/mean"] < metrics["judge/ci_high"]
    assert metrics["judge/bound_low"] == metrics["judge/mean"] == metrics["judge/bound_high"]
    assert metrics["judge/control/identity_mean"] == 100
    assert metrics["judge/control/auc"] == 1
    assert metrics["judge/control/injection_uplift"] <= 5
    assert metrics["judge/minimum_detectable"] > 0
    comparison = judge["comparisons"]["instruct"]
    assert judge["baseline"] == "base"
    assert comparison["verdict"] == "better" == run.data.tags["gptworks.judge.instruct_over_base"]
    assert metrics["judge/instruct_over_base/difference"] == pytest.approx(
        metrics["judge/mean"] - metrics["base/judge/mean"]
    )
    assert run.data.tags["gptworks.judge.valid"] == "true"
    assert run.data.tags["gptworks.judge.group"] == judge["provenance"]["comparable_group"]
    assert run.data.params["judge.client.model_digest"] == FakeOllama.model_digest
    assert run.data.params["judge.client.options.num_ctx"] == "8192"
    assert run.data.params["judge.items_digest"] == run.data.tags["gptworks.judge.items"]
    items = read_json_lines(folder / "judge" / "items.jsonl")
    assert [(row["model"], row["id"]) for row in items] == [
        (m, str(i)) for m in ("instruct", "base") for i in range(24)
    ]
    asked = [row for row in items if row["source"] == "judge"]
    assert all(row["instruction"] in row["prompt"] and json.loads(row["raw"])["score"] == row["score"] for row in asked)


def test_a_judge_that_gives_all_answers_the_same_is_published_as_not_validated(judged: Any) -> None:
    with FakeOllama(score=lambda *_: 70) as server:
        result, run, _ = judged(server)
    judge = result.judge
    assert (judge["state"], judge["valid"]) == ("judge not validated", False)
    assert "identity_mean 70, must be >= 90: right answers are marked down" in judge["reason"]
    assert run.data.tags["gptworks.judge"].startswith("judge not validated identity_mean 70")
    assert run.data.tags["gptworks.judge.valid"] == "false"
    assert run.data.metrics["judge/valid"] == 0
    assert run.data.metrics["judge/mean"] > 0  # told, not hidden


def test_what_the_judge_could_not_score_is_counted_by_reason_and_bounded(judged: Any) -> None:
    with FakeOllama(scenario=lambda call: "prose" if call.reference.endswith("7") else "score") as server:
        result, run, folder = judged(server, judge_models=("instruct",))
    metrics = run.data.metrics
    assert metrics["judge/unscored"] == metrics["judge/unscored_bad_json"] > 0
    assert metrics["judge/bound_high"] - metrics["judge/bound_low"] == pytest.approx(
        100 * metrics["judge/unscored"] / 24
    )
    assert result.judge["comparisons"] == {}
    rows = read_json_lines(folder / "scores.jsonl")
    assert [row["judge_reason"] for row in rows].count("bad_json") == metrics["judge/unscored"]


def test_a_second_evaluation_asks_nothing_twice(judged: Any) -> None:
    with FakeOllama() as server:
        first, _, _ = judged(server)
        n_asked = len(server.calls)
        second, _, _ = judged(server)
    assert len(server.calls) == n_asked
    same = {"cached", "load_seconds"}
    assert {k: v for k, v in second.judge.items() if k not in same | {"models"}} == {
        k: v for k, v in first.judge.items() if k not in same | {"models"}
    }
    assert not any(isinstance(value, float) and math.isnan(value) for value in first.judge.values())


def test_settings_of_the_judge_that_cannot_be_are_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="'bsae'"):
        resolve("tiny", overrides=["evaluate.judge_models=instruct,bsae"])
    with pytest.raises(ConfigError, match="expected different models with instruct among them"):
        EvaluateStage(judge_models=("base",))
    with FakeOllama(context_length=4096) as server, pytest.raises(EvalConfigError, match="set num_ctx to 4096 or less"):
        evaluation.judge_state(EvaluateStage(), server.url)


@pytest.fixture
def evaluated(judged: Any, make_report: Callable[..., PipelineReport]) -> Callable[[FakeOllama], PipelineReport]:
    """A pipeline's report with a stage that was really judged by the given server."""

    def make(server: FakeOllama) -> PipelineReport:
        result, _, folder = judged(server)
        report = make_report(only=("evaluate",))
        (stage,) = report.stages
        return replace(report, stages=(replace(stage, path=folder, result=result),))

    return make


def test_the_page_tells_validity_and_verdict_before_any_figure(evaluated: Any, tmp_path: Path) -> None:
    with FakeOllama() as server:
        report = evaluated(server)
    page = write_report(report, tmp_path / "report.html").read_text(encoding="utf-8")
    part = page[page.index('id="evaluation"') : page.index('id="ledger"')]
    order = ["Valid.", "is <b>better</b> than the base model", "95% interval", "Controls", "<svg", "Best by the judge"]
    places = [part.index(words) for words in order]
    assert places == sorted(places)
    assert part.count("<svg") == 4
    assert server.model_digest in part
    assert "<script" not in page


def test_the_page_says_that_a_judge_is_not_validated_and_why(evaluated: Any, tmp_path: Path) -> None:
    with FakeOllama(score=lambda *_: 70) as server:
        report = evaluated(server)
    page = write_report(report, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Judge not validated." in page
    assert "right answers are marked down; wrong answers earn points" in page
    assert "; the judge is not validated" in page
    headline = str(summary_rows(report)[-1].metric_value)
    assert "judge not validated: identity_mean 70, must be >= 90: right answers are marked down; " in headline
