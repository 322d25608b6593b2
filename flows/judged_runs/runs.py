"""Judged runs out of MLflow: their item tables, and the comparison of two of them."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.digest import digest
from eval.errors import EvalDataError
from eval.stats import Comparison, ItemScores, LengthControlled, check_comparable, compare_runs
from flows.settings import Settings
from flows.stages.judge.drawings import difference_svg, standalone
from flows.stages.judge.numbers import comparison_numbers, finite
from flows.stages.judge.sitting import FOLDER, MAIN, at_equal_length, differences
from flows.tracking.runs import PREFIX, connect, stage_run
from gptcore.files import read_json_lines

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPARED = "judge-compare"
"""The experiment of comparisons."""


@dataclass(frozen=True)
class JudgedRun:
    """What a judge said of one model's responses in one tracked run."""

    run_id: str
    name: str
    model: str
    """Whose responses: instruct, base or lora."""
    rows: list[dict[str, Any]]
    """One per item, as ``eval.run.judge_responses`` made them."""
    facts: dict[str, Any]
    """The run's summary: state, validity, figures, provenance."""

    @property
    def scores(self) -> ItemScores:
        """By item."""
        return ItemScores.from_rows(self.rows)

    @property
    def invalid_because(self) -> list[str]:
        """Why its scores are not to be believed; empty if they are."""
        return list(self.facts["models"][self.model]["invalid_because"])


@dataclass(frozen=True)
class Compared:
    """Two runs and what came of comparing them."""

    baseline: JudgedRun
    candidate: JudgedRun
    comparison: Comparison
    at_equal_length: LengthControlled
    """The difference where both answers are equally long."""
    run_id: str
    """The tracked run of the comparison."""

    @property
    def invalid_because(self) -> list[str]:
        """Why no verdict may be taken from it; empty if one may."""
        sides = {self.baseline.run_id: self.baseline, self.candidate.run_id: self.candidate}
        return [f"{run_id[:8]}: {reason}" for run_id, side in sides.items() for reason in side.invalid_because]


def load_run(settings: Settings, run_id: str, *, model: str = MAIN) -> JudgedRun:
    """The item table of an evaluation's run, or of the evaluation inside a pipeline's run.

    Raises:
        EvalDataError: there is no such run, it holds no judged items, or none of this model.
        TrackingError: the tracking store cannot be reached.
    """
    client = connect(settings)
    run = _run(client, run_id)
    inner = run.data.tags.get(f"{PREFIX}.run.evaluate")
    if inner:
        run = _run(client, inner)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(client.download_artifacts(run.info.run_id, FOLDER, folder))
            facts = json.loads((path / "report.json").read_text(encoding="utf-8"))
        except Exception as error:
            raise EvalDataError(
                f"run {run_id} holds no judged items ({run.data.tags.get('gptworks.judge', type(error).__name__)});"
                " judge its responses: gptworks evaluate --judge required"
            ) from error
        rows = [row for row in read_json_lines(path / "items.jsonl") if row["model"] == model]
    if not rows:
        raise EvalDataError(
            f"run {run_id} has no judged responses of {model!r} (it has: {', '.join(facts['models'])}); judge them:"
            f" gptworks evaluate --judge required --set evaluate.judge_models=instruct,{model}"
        )
    return JudgedRun(run.info.run_id, str(run.info.run_name), model, rows, facts)


def compare(settings: Settings, *, baseline: JudgedRun, candidate: JudgedRun, seed: int) -> Compared:
    """Compare two runs item by item and keep the result as a tracked run below the candidate's.

    Raises:
        IncomparableError: another judge, prompt, option or item set; names each difference.
        UnpairableError: the items differ, or none is scored in both.
        TrackingError: the tracking store cannot be reached.
    """
    check_comparable(baseline.facts["provenance"], candidate.facts["provenance"])
    found = compare_runs(baseline.scores, candidate.scores, seed=seed)
    sides = {
        "baseline": {"run": baseline.run_id, "model": baseline.model},
        "candidate": {"run": candidate.run_id, "model": candidate.model},
        "seed": seed,
    }
    lengths = at_equal_length(baseline.rows, candidate.rows, seed=seed)
    result = Compared(baseline, candidate, found, lengths, "")
    invalid = result.invalid_because
    tags = {
        f"{PREFIX}.judge.verdict": found.verdict,
        f"{PREFIX}.judge.group": candidate.facts["provenance"]["comparable_group"],
        f"{PREFIX}.run.baseline": baseline.run_id,
        f"{PREFIX}.run.candidate": candidate.run_id,
        **validity_tags(invalid),
    }
    name = f"{candidate.model} of {candidate.run_id[:8]} against {baseline.model} of {baseline.run_id[:8]}"
    key, above = digest(sides)[:16], candidate.run_id
    with stage_run(settings, stage=COMPARED, name=name, key=key, params=sides, tags=tags, parent_run_id=above) as log:
        numbers = comparison_numbers(found, lengths) | {"valid": float(not invalid)}
        log.log_metrics(finite({f"judge/{metric}": value for metric, value in numbers.items()}))
        log.log_text(json.dumps(asdict(found), indent=1), "comparison.json")
        log.log_table(_pairs(baseline, candidate), "items.json")
        svg = difference_svg(differences(baseline.rows, candidate.rows), name="paired")
        if svg:
            log.log_text(standalone(svg), "figures/paired_differences.svg")
        return replace(result, run_id=log.run_id)


def validity_tags(invalid: list[str]) -> dict[str, str]:
    """Tags of a comparison: whether a verdict may be taken from it, and if not, why."""
    state = {f"{PREFIX}.judge": f"judge not validated {'; '.join(invalid)}"} if invalid else {}
    return {f"{PREFIX}.judge.valid": str(not invalid).lower(), **state}


def _pairs(baseline: JudgedRun, candidate: JudgedRun) -> list[dict[str, Any]]:
    before = {row["id"]: row for row in baseline.rows}
    return [
        {
            **{name: row[name] for name in ("id", "instruction", "reference")},
            "baseline": before[row["id"]]["response"],
            "candidate": row["response"],
            "baseline_score": before[row["id"]]["score"],
            "candidate_score": row["score"],
        }
        for row in candidate.rows
    ]


def _run(client: MlflowClient, run_id: str) -> Any:
    try:
        return client.get_run(run_id)
    except Exception as error:
        raise EvalDataError(
            f"there is no run {run_id!r} in the tracking store; list the evaluations: gptworks runs --stage evaluate"
        ) from error
