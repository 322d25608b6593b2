"""``gptworks judge``: runs are compared or refused, judges accepted or rejected, labels given blind and never lost."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from eval.testing.fake_ollama import FakeOllama
from eval.testing.fake_ollama.answers import score_overlap
from flows.cli.examples import JUDGE_EXAMPLES
from flows.cli.judge import judge
from flows.settings import read_settings
from flows.tracking.runs import connect
from gptcore.files import read_json_lines

pytestmark = pytest.mark.flows
Told = Callable[..., str]


@pytest.fixture(autouse=True)
def environment(judge_home: Path) -> Iterator[None]:
    """The folder of the judged runs, and an environment that is as before afterwards."""
    before = dict(os.environ)
    os.environ |= {"GPTWORKS_HOME": str(judge_home), "OLLAMA_HOST": "127.0.0.1:9", "COLUMNS": "200"}
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_the_examples_are_commands_that_would_run(told: Told) -> None:
    commands = typer.main.get_group(judge).commands
    assert set(JUDGE_EXAMPLES) == set(commands)
    for name, lines in JUDGE_EXAMPLES.items():
        shown = told("judge", name, "--help")
        for line in lines:
            assert line in shown
            commands[name].make_context(name, shlex.split(line)[3:])


def test_two_runs_are_compared_item_by_item_and_the_result_is_tracked(judged_well: Any, told: Told) -> None:
    _, first, _ = judged_well()
    text = told("judge", "compare", first.info.run_id, first.info.run_id, "--baseline-model", "base")
    assert text.startswith("better")
    assert "not validated" not in text
    run_id = re.findall(r"MLflow run (\w+)", text)[0]
    kept = connect(read_settings()).get_run(run_id)
    assert kept.data.tags["gptworks.judge.verdict"] == "better"
    assert kept.data.tags["mlflow.parentRunId"] == kept.data.tags["gptworks.run.baseline"] == first.info.run_id
    assert kept.data.metrics["judge/valid"] == 1
    low, high = kept.data.metrics["judge/ci_low"], kept.data.metrics["judge/ci_high"]
    assert 0 < low < kept.data.metrics["judge/difference"] < high
    same = told("judge", "compare", first.info.run_id, first.info.run_id)
    assert same.startswith("not distinguishable")
    assert "+0.00 points" in same


def test_two_runs_are_shown_side_by_side_in_both_orders_and_nothing_is_asked_twice(
    judged_well: Any, told: Told
) -> None:
    _, run, _ = judged_well("instruct", "base", "lora")
    with FakeOllama() as server:
        command = ("judge", "compare", run.info.run_id, run.info.run_id, "--baseline-model", "base", "--pairwise")
        text = told(*command, "--judge-url", server.url)
        asked = list(server.questions)
        assert asked
        assert {(call.texts["ANSWER A"], call.texts["ANSWER B"]) for call in asked} == {
            (call.texts["ANSWER B"], call.texts["ANSWER A"]) for call in asked
        }
        again = told(*command, "--judge-url", server.url)
        assert len(server.questions) == len(asked)
    assert text.startswith("better")
    assert "not validated" not in text
    assert "the orders agree on 100% of the items (0 ties by disagreement)" in text
    kept = connect(read_settings()).get_run(re.findall(r"MLflow run (\w+)", text)[0])
    name = kept.info.run_name.removesuffix(", side by side").replace(" ", "_").replace("_against_", "_over_")
    assert kept.data.tags["gptworks.judge.verdict"] == "better"
    assert kept.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert kept.data.params["judge.mode"] == "pairwise"
    assert kept.data.params["judge.client.model_digest"] == server.model_digest
    low, rate = kept.data.metrics[f"judge/{name}/ci_low"], kept.data.metrics[f"judge/{name}/win_rate"]
    assert 0.5 < low <= rate <= 1
    assert kept.data.metrics[f"judge/{name}/disagreements"] == 0
    assert re.sub(r"MLflow run \w+", "", again) == re.sub(r"MLflow run \w+", "", text)


def test_more_than_two_are_ranked_by_strength(judged_well: Any, told: Told) -> None:
    run_id = judged_well("instruct", "base", "lora")[1].info.run_id
    with FakeOllama() as server:
        sides = (f"{run_id}:base", run_id, f"{run_id}:lora")
        text = told("judge", "rank", *sides, "--judge-url", server.url, "--concurrency", "4")
        twice = told("judge", "rank", run_id, run_id, "--judge-url", server.url, code=2)
    assert "expected at least two different runs to compare, got" in twice
    assert "no strengths: these groups of models never both won and lost" in text or "strength 95% interval" in text
    kept = connect(read_settings()).get_run(re.findall(r"MLflow run (\w+)", text)[0])
    verdicts = {name: value for name, value in kept.data.tags.items() if ".judge.verdict." in name}
    assert len(verdicts) == 3
    assert verdicts[f"gptworks.judge.verdict.instruct_of_{run_id[:8]}_over_base_of_{run_id[:8]}"] == "better"


def test_side_by_side_refuses_other_items_and_doubts_a_judge_without_controls(
    judged: Any, judged_well: Any, told: Told
) -> None:
    _, first, _ = judged_well()
    with FakeOllama(others={"phi3:mini": score_overlap}) as server:
        _, fewer, _ = judged(server, n=20)
        options = ("--pairwise", "--judge-url", server.url)
        text = told("judge", "compare", first.info.run_id, fewer.info.run_id, *options, code=3)
        assert "were evaluated on different items (items_digest" in text
        command = ("judge", "compare", first.info.run_id, first.info.run_id, "--baseline-model", "base", *options)
        text = told(*command, "--judge-model", "phi3:mini")
        assert text.startswith(
            "judge not validated, take no verdict from this: none of the runs was scored by phi3:mini"
        )
        server.model_digest = "f" * 64
        text = told(*command, code=6)
    assert "JudgeChanged" in text
    assert "with the digest 365c0bd3c000, got" in text


def test_a_comparison_by_a_judge_that_failed_its_controls_says_so_first(judged: Any, told: Told) -> None:
    with FakeOllama(score=lambda *_: 70) as server:
        _, run, _ = judged(server)
    text = told("judge", "compare", run.info.run_id, run.info.run_id)
    assert text.startswith(f"judge not validated, take no verdict from this: {run.info.run_id[:8]}: identity_mean 70")


def test_runs_of_different_judges_are_refused_with_the_difference(judged: Any, judged_well: Any, told: Told) -> None:
    _, first, _ = judged_well()
    with FakeOllama() as server:
        _, second, _ = judged(server, num_ctx=4096)
    text = told("judge", "compare", first.info.run_id, second.info.run_id, code=3)
    assert "IncomparableError" in text
    assert "judge.client.options.num_ctx: 8192 against 4096" in text
    with FakeOllama(model_digest="f" * 64) as server:
        _, third, _ = judged(server, n=20)
    text = told("judge", "compare", first.info.run_id, third.info.run_id, code=3)
    assert "judge.client.model_digest" in text
    assert "items_digest" in text


def test_runs_that_are_not_there_or_not_judged_are_named_with_what_to_do(judged: Any, told: Told) -> None:
    text = told("judge", "compare", "nothing", "nothing", code=3)
    assert "there is no run 'nothing'" in text
    with FakeOllama() as server:
        _, run, _ = judged(server, judge_models=("instruct",))
        _, off, _ = judged(server, judge="off")
    text = told("judge", "compare", run.info.run_id, run.info.run_id, "--model", "base", code=3)
    assert "has no judged responses of 'base' (it has: instruct)" in text
    text = told("judge", "compare", off.info.run_id, run.info.run_id, code=3)
    assert "holds no judged items (off switched off by --judge off)" in text


def labels(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_judge_that_people_agree_with_is_accepted_and_another_rejected(
    judged: Any, tmp_path: Path, told: Told
) -> None:
    with FakeOllama() as server:
        _, run, folder = judged(server, n=36)
    scores = {r["id"]: r["score"] for r in read_json_lines(folder / "judge/items.jsonl") if r["model"] == "instruct"}
    agreeing = labels(tmp_path / "good.csv", [{"id": i, "human": min(100, s + 3)} for i, s in scores.items()])
    text = told("judge", "calibrate", "--labels", str(agreeing), "--run", run.info.run_id)
    assert "accepted" in text
    assert all(rule in text for rule in ("longest", "exact_match", "token_f1", "answer is not the reference"))
    assert "where the 36 labels put it" in text
    kept = connect(read_settings()).get_run(re.findall(r"MLflow run (\w+)", text)[0])
    assert kept.data.tags["gptworks.judge.accepted"] == "true"
    opposed = labels(tmp_path / "bad.csv", [{"id": i, "human": 100 - s} for i, s in scores.items()])
    text = told("judge", "calibrate", "--labels", str(opposed), "--run", run.info.run_id, code=1)
    assert "rejected by spearman, spearman_low, pass_kappa" in text
    assert "spearman -1" in text


def test_scores_from_a_file_alone_accept_no_judge_since_no_controls_ran(tmp_path: Path, told: Told) -> None:
    perfect = labels(tmp_path / "both.csv", [{"id": i, "human": i, "judge": i} for i in range(0, 101, 2)])
    text = told("judge", "calibrate", "--labels", str(perfect), code=1)
    assert "scores from a file come without controls, so no judge is accepted by them; name its run: --run RUN" in text
    assert text.endswith("rejected by controls")


def test_side_by_side_a_judge_has_to_prefer_what_people_do(judged: Any, tmp_path: Path, told: Told) -> None:
    with FakeOllama() as server:
        _, run, folder = judged(server, n=36, lora=True, judge_models=("instruct", "base", "lora"))
        rows = read_json_lines(folder / "judge/items.jsonl")
        given = {
            model: labels(
                tmp_path / f"{model}.csv", [{"id": r["id"], "human": r["score"]} for r in rows if r["model"] == model]
            )
            for model in ("instruct", "base", "lora")
        }
        command = ("judge", "calibrate", "--run", run.info.run_id, "--labels", str(given["instruct"]))
        command += ("--judge-url", server.url, "--baseline")
        text = told(*command, f"{run.info.run_id}:lora", "--baseline-labels", str(given["lora"]))
        assert "pair_agreement 1 >= 0.65 met pair_agreement_low 1 > 0.759 met consistency 1 >= 0.65 met" in text
        assert "accepted" in text
        kept = connect(read_settings()).get_run(re.findall(r"MLflow run (\w+)", text)[0])
        assert kept.data.metrics["pairs/judge"] == kept.data.metrics["pairs/consistency"] == 1
        # every answer of the tuned model is the longer one here, so that agreement says nothing of reading
        told_of_base = (f"{run.info.run_id}:base", "--baseline-labels", str(given["base"]))
        text = told(*command, *told_of_base, code=1)
        assert "rejected by pair_agreement_low" in text
        assert "no better than the longer answer" in text
    assert "--baseline and --baseline-labels go together" in told(*command, "nothing", code=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,score\n1,50\n", "has no column 'human' (it has: id, score)"),
        ("id,human\n1,150\n", "line 2: expected a score of 0 to 100, got '150'"),
        ("id,human\n", "holds no labels"),
        ("id,human\n1,50\n", "have no column 'judge'"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_with_the_place(
    tmp_path: Path, told: Told, content: str, message: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    assert message in told("judge", "calibrate", "--labels", str(path), code=3)


def test_labelling_is_blind_shuffled_and_resumes_where_it_stopped(
    judged: Any, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeOllama() as server:
        _, run, _ = judged(server, n=12)
    out = tmp_path / "labels.csv"
    command = ("judge", "label", "--run", run.info.run_id, "--out", str(out), "--limit", "6", "--rater", "anna")
    monkeypatch.setattr("sys.stdin", io.StringIO("80\n101\nten\ns\n40\nq\n"))
    text = told(*command)
    assert "expected a score of 0 to 100, s or q, got '101'" in text
    assert "2 of 6 items have a score by anna" in text
    assert "instruct" not in text.replace("Instruct", "")
    first = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["human"] for row in first] == ["80", "40"]
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n" * 10))
    text = told(*command)
    assert "4 of 6 items to score as anna" in text
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert rows[:2] == first
    assert len({row["id"] for row in rows}) == 6
    order = [int(row["id"]) for row in rows]
    assert order != sorted(order)
    with FakeOllama() as server:
        _, other, _ = judged(server, n=11)
    command = ("judge", "label", "--run", other.info.run_id, "--out", str(out), "--model", "base")
    assert "has scores of other answers than these" in told(*command, code=3)
