"""``gptworks judge``: runs are compared or refused, judges accepted or rejected, labels given blind and never lost."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from eval.testing.fake_ollama import FakeOllama
from flows.cli import main
from flows.cli_examples import JUDGE_EXAMPLES
from flows.cli_judge import judge
from flows.settings import read_settings
from flows.tracking import connect

pytestmark = pytest.mark.flows


@pytest.fixture(autouse=True)
def environment(judge_home: Path) -> Iterator[None]:
    """The folder of the judged runs, and an environment that is as before afterwards."""
    before = dict(os.environ)
    os.environ |= {"GPTWORKS_HOME": str(judge_home), "OLLAMA_HOST": "127.0.0.1:9", "COLUMNS": "200"}
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.clear()
    os.environ.update(before)


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Everything a command prints, its white space made even."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr()
    text = " ".join(re.sub(r"[│╭╰╮╯─┃┏┗┓┛━┡┩╇┳┴┬┼└┘]", " ", printed.out + printed.err).split())
    assert (end.value.code or 0) == code, text
    assert "Traceback" not in text
    return text


def test_the_examples_are_commands_that_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    commands = typer.main.get_group(judge).commands
    assert set(JUDGE_EXAMPLES) == set(commands)
    for name, lines in JUDGE_EXAMPLES.items():
        shown = told(capsys, "judge", name, "--help")
        for line in lines:
            assert line in shown
            commands[name].make_context(name, shlex.split(line)[3:])


def test_two_runs_are_compared_item_by_item_and_the_result_is_tracked(
    judged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeOllama() as server:
        _, first, _ = judged(server)
    text = told(capsys, "judge", "compare", first.info.run_id, first.info.run_id, "--baseline-model", "base")
    assert text.startswith("better")
    assert "not validated" not in text
    run_id = re.findall(r"MLflow run (\w+)$", text)[0]
    kept = connect(read_settings()).get_run(run_id)
    assert kept.data.tags["gptworks.judge.verdict"] == "better"
    assert kept.data.tags["mlflow.parentRunId"] == kept.data.tags["gptworks.run.baseline"] == first.info.run_id
    assert kept.data.metrics["judge/valid"] == 1
    low, high = kept.data.metrics["judge/ci_low"], kept.data.metrics["judge/ci_high"]
    assert 0 < low < kept.data.metrics["judge/difference"] < high
    same = told(capsys, "judge", "compare", first.info.run_id, first.info.run_id)
    assert same.startswith("not distinguishable")
    assert "+0.00 points" in same


def test_a_comparison_by_a_judge_that_failed_its_controls_says_so_first(
    judged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeOllama(score=lambda *_: 70) as server:
        _, run, _ = judged(server)
    text = told(capsys, "judge", "compare", run.info.run_id, run.info.run_id)
    assert text.startswith(f"judge not validated, take no verdict from this: {run.info.run_id[:8]}: identity_mean 70")


def test_runs_of_different_judges_are_refused_with_the_difference(
    judged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeOllama() as server:
        _, first, _ = judged(server)
        _, second, _ = judged(server, num_ctx=4096)
    text = told(capsys, "judge", "compare", first.info.run_id, second.info.run_id, code=3)
    assert "IncomparableError" in text
    assert "judge.client.options.num_ctx: 8192 against 4096" in text
    with FakeOllama(model_digest="f" * 64) as server:
        _, third, _ = judged(server, n=20)
    text = told(capsys, "judge", "compare", first.info.run_id, third.info.run_id, code=3)
    assert "judge.client.model_digest" in text
    assert "items_digest" in text


def test_runs_that_are_not_there_or_not_judged_are_named_with_what_to_do(
    judged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, "judge", "compare", "nothing", "nothing", code=3)
    assert "there is no run 'nothing'" in text
    with FakeOllama() as server:
        _, run, _ = judged(server, judge_models=("instruct",))
        _, off, _ = judged(server, judge="off")
    text = told(capsys, "judge", "compare", run.info.run_id, run.info.run_id, "--model", "base", code=3)
    assert "has no judged responses of 'base' (it has: instruct)" in text
    text = told(capsys, "judge", "compare", off.info.run_id, run.info.run_id, code=3)
    assert "holds no judged items (off switched off by --judge off)" in text


def labels(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_judge_that_people_agree_with_is_accepted_and_another_rejected(
    judged: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeOllama() as server:
        _, run, folder = judged(server, n=36)
    from gptcore.files import read_json_lines

    scores = {r["id"]: r["score"] for r in read_json_lines(folder / "judge/items.jsonl") if r["model"] == "instruct"}
    agreeing = labels(tmp_path / "good.csv", [{"id": i, "human": min(100, s + 3)} for i, s in scores.items()])
    text = told(capsys, "judge", "calibrate", "--labels", str(agreeing), "--run", run.info.run_id)
    assert "accepted" in text
    assert all(rule in text for rule in ("longest", "exact_match", "token_f1", "answer is not the reference"))
    assert "where the 36 labels put it" in text
    kept = connect(read_settings()).get_run(re.findall(r"MLflow run (\w+)", text)[0])
    assert kept.data.tags["gptworks.judge.accepted"] == "true"
    opposed = labels(tmp_path / "bad.csv", [{"id": i, "human": 100 - s, "judge": s} for i, s in scores.items()])
    text = told(capsys, "judge", "calibrate", "--labels", str(opposed), code=1)
    assert "rejected" in text
    assert "spearman -1" in text
    assert "controls were not part of this" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,score\n1,50\n", "has no column 'human' (it has: id, score)"),
        ("id,human\n1,150\n", "line 2: '150' is no score of 0 to 100"),
        ("id,human\n", "holds no labels"),
        ("id,human\n1,50\n", "have no column 'judge'"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_with_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    assert message in told(capsys, "judge", "calibrate", "--labels", str(path), code=3)


def test_labelling_is_blind_shuffled_and_goes_on_where_it_stopped(
    judged: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeOllama() as server:
        _, run, _ = judged(server, n=12)
    out = tmp_path / "labels.csv"
    command = ("judge", "label", "--run", run.info.run_id, "--out", str(out), "--limit", "6", "--rater", "anna")
    monkeypatch.setattr("sys.stdin", io.StringIO("80\n101\nten\ns\n40\nq\n"))
    text = told(capsys, *command)
    assert "'101' is none of these" in text
    assert "2 of 6 items have a score by anna" in text
    assert "instruct" not in text.replace("Instruct", "")
    first = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["human"] for row in first] == ["80", "40"]
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n" * 10))
    text = told(capsys, *command)
    assert "4 of 6 items to score as anna" in text
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert rows[:2] == first
    assert len({row["id"] for row in rows}) == 6
    order = [int(row["id"]) for row in rows]
    assert order != sorted(order)
    with FakeOllama() as server:
        _, other, _ = judged(server, n=11)
    command = ("judge", "label", "--run", other.info.run_id, "--out", str(out), "--model", "base")
    assert "has scores of other answers than these" in told(capsys, *command, code=3)
