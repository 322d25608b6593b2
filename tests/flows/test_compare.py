"""Two tracked runs side by side, in a real store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flows.cli.entry import main
from flows.judged_runs.compare import Comparison, compare, keep, markdown
from flows.settings import Settings, read_settings
from flows.tracking.runs import connect, pipeline_run, stage_run
from gptcore.errors import ConfigError

pytestmark = pytest.mark.flows
N = 40


@pytest.fixture(scope="module")
def settings(tracked_home: Path) -> Settings:
    return read_settings({"GPTWORKS_HOME": str(tracked_home)})


def rows(better: float, *, n: int = N) -> list[dict[str, Any]]:
    """Every item scores a little more, but each by another amount; every eighth has no score from the judge."""
    return [
        {
            "id": str(i),
            "instruction": f"Tell of thing {i}.",
            "input": "",
            "reference": f"thing {i}",
            "response": f"{'good' if better else 'bad'} {i} | so",
            "rouge_l": 0.3 + 0.01 * (i % 7) + better * (1 + 0.2 * math.sin(i)),
            "judge_score": None if i % 8 == 0 else 50.0 + i % 5,
        }
        for i in range(n)
    ]


def evaluated(
    settings: Settings, key: str, *, better: float, params: Mapping[str, Any], tags: Mapping[str, str] | None = None
) -> str:
    with stage_run(settings, stage="evaluate", name=f"evaluate-{key}", key=key, params=params, tags=tags) as log:
        table = rows(better)
        log.log_metrics({"test/rouge_l": sum(row["rouge_l"] for row in table) / N, "perf/seconds": 3.0})
        log.log_table(list(reversed(table)), "scores.json")
    return log.run_id


@pytest.fixture(scope="module")
def two(settings: Settings) -> tuple[str, str]:
    first = evaluated(settings, "a", better=0.0, params={"seed": 1, "evaluate": {"judge": "off"}})
    second = evaluated(settings, "b", better=0.05, params={"seed": 2, "evaluate": {"judge": "off"}, "new": 1})
    return first, second


@pytest.fixture(scope="module")
def found(settings: Settings, two: tuple[str, str]) -> Comparison:
    return compare(settings, *two)


def test_what_differs_is_told_and_what_does_not_is_not(found: Comparison) -> None:
    assert found.params == {"seed": ("1", "2"), "new": (None, "1")}
    one, other = found.metrics["test/rouge_l"]
    assert one is not None
    assert other is not None
    assert other - one == pytest.approx(0.05, abs=0.005)
    assert found.notes == ()


def test_items_are_paired_by_what_was_asked_and_have_intervals(found: Comparison) -> None:
    by_column = {item.column: item for item in found.items}
    assert set(by_column) == {"rouge_l", "judge_score"}
    rouge, judged = by_column["rouge_l"], by_column["judge_score"]
    assert rouge.n == N
    assert 0 < rouge.low < rouge.difference < rouge.high
    assert rouge.is_significant
    assert judged.n == N - N // 8, "an item that one judge did not score has no pair"
    assert (judged.difference, judged.is_significant) == (0.0, False)
    assert {(row["first"][:3], row["second"][:4]) for row in found.samples} == {("bad", "good")}
    assert all(row["first"].split()[1] == row["second"].split()[1] for row in found.samples)


def test_a_comparison_is_kept_as_a_run(settings: Settings, two: tuple[str, str], found: Comparison) -> None:
    client = connect(settings)
    run = client.get_run(keep(settings, found))
    assert run.info.status == "FINISHED"
    assert run.data.params == {"first": two[0], "second": two[1]}
    assert run.data.metrics["items/rouge_l/ci_low"] > 0
    assert run.data.tags["mlflow.note.content"] == markdown(found)
    assert f"#/runs/{two[0]}" in markdown(found)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "comparison.md",
        "metrics.json",
        "params.json",
        "samples.json",
    }
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "gptworks/compare"
    assert "gptworks compare" in experiment.tags["mlflow.note.content"]


def test_pipelines_are_compared_by_the_items_of_their_evaluations(settings: Settings, two: tuple[str, str]) -> None:
    whole = []
    for i, inner in enumerate(two):
        with pipeline_run(settings, name="pipeline", key=f"p{i}", params={}) as log:
            log.set_tags({"gptworks.run.evaluate": inner})
        whole.append(log.run_id)
    assert {item.column for item in compare(settings, *whole).items} == {"rouge_l", "judge_score"}


def test_what_speaks_against_comparing_is_told(settings: Settings, two: tuple[str, str]) -> None:
    tags = {"gptworks.data": "other", "gptworks.tokenizer": "b" * 64}
    mine = {"gptworks.data": "own", "gptworks.tokenizer": "a" * 64}
    runs = [evaluated(settings, f"t{i}", better=0.0, params={}, tags=each) for i, each in enumerate((mine, tags))]
    told = compare(settings, *runs).notes
    assert [note.partition(" (")[0] for note in told] == ["they saw different data", "their tokenizers differ"]


def test_runs_that_cannot_be_compared_are_refused(settings: Settings, two: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="are the same run"):
        compare(settings, two[0], two[0])
    with pytest.raises(ConfigError, match=r"there is no run 'nothing'.*gptworks runs --stage"):
        compare(settings, two[0], "nothing")


def test_the_command_prints_it(
    settings: Settings, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPTWORKS_HOME", str(settings.home))
    with pytest.raises(SystemExit) as end:
        main(["compare", *two, "--no-keep"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "seed" in out
    assert "rouge_l" in out
    assert "good 39 | so" in out
    assert f"{N - 5} more samples" in out


def test_a_page_has_no_row_that_a_cell_breaks(found: Comparison) -> None:
    lines = [line for line in markdown(found).splitlines() if line.startswith("| Tell of")]
    assert len(lines) == 10
    assert all(line.replace("\\|", "").count("|") == 4 for line in lines)
