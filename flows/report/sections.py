"""What the report page shows: a part for every stage, and what is about all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from flows.figures.svg import MAX_POINTS, loss_svg
from flows.stages.every import STAGES
from flows.stages.outcome import Outcome, PipelineReport
from flows.stages.registry import Stage
from flows.tracking.logger import flatten
from gptcore.data.ledger import Ledger, LedgerRow
from gptcore.train.logger import read_history


@dataclass(frozen=True)
class Section:
    """The part of one stage."""

    name: str
    """Of the stage."""
    anchor: str
    """Its id on the page."""
    title: str
    """Its name among the parts."""
    heading: str
    """What stands above it."""
    facts: Any
    """What the stage's template shows; None where the stage was left out."""
    template: str
    """The stage's template, or the one that shows metrics alone."""
    absent: str
    """Why the stage is not in this run; empty if it is."""


def collect(report: PipelineReport) -> dict[str, Any]:
    """Every part of the page by its name in the template.

    Raises:
        DataError: a file that a stage left cannot be read.
    """
    return {
        "sections": [_section(stage, report) for stage in STAGES.values()],
        "absent": {name: reason for name in STAGES if (reason := _absence(report, name))},
        "curves": _curves(report),
        "max_points": MAX_POINTS,
        "ledger": [part for stage in report.stages for part in _ledgers(stage)],
        "config": flatten(report.config),
    }


def _section(stage: Stage, report: PipelineReport) -> Section:
    made = report.stage(stage.name)
    if stage.section is not None:
        facts, template = stage.section(report), f"{stage.name}/section.html.j2"
    else:
        facts, template = made.result.metrics if made else None, "metrics.html.j2"
    absent = _absence(report, stage.name) or ""
    return Section(stage.name, stage.anchor, stage.title, stage.heading, facts, template, absent)


def _absence(report: PipelineReport, name: str) -> str | None:
    return None if report.stage(name) else report.left_out.get(name, "it was not part of this run")


def _curves(report: PipelineReport) -> list[dict[str, Any]]:
    curves = []
    drawn = [(stage, *curve) for stage in report.stages for curve in STAGES[stage.stage].curves]
    for stage, folder, title in drawn:
        history = read_history(stage.path / folder / "metrics.jsonl")
        svg = loss_svg(history, name=f"loss-{stage.stage}-{folder}")
        if svg:
            held_out = [line["val/loss"] for line in history if line.get("val/loss") is not None]
            n_points = sum("train/loss" in line for line in history)
            last = held_out[-1] if held_out else None
            curves.append({"title": title, "svg": Markup(svg), "last": last, "thinned": n_points > MAX_POINTS})
    return curves


def _ledgers(stage: Outcome) -> list[dict[str, Any]]:
    return [
        {
            "stage": stage.stage,
            "folder": str(path.parent.relative_to(stage.path)) if path.parent != stage.path else "",
            "lines": _pivot(Ledger.load(path).to_rows()),
        }
        for path in sorted(stage.path.rglob("ledger.json"))
    ]


def _pivot(rows: Iterable[LedgerRow]) -> list[dict[str, Any]]:
    """One line per step, split and unit: what came in, stayed, went and was cut, and why."""
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["stage"], row["split"], row["unit"])
        line = lines.setdefault(key, {"step": key[0], "split": key[1], "unit": key[2], "reasons": []})
        line[row["outcome"]] = line.get(row["outcome"], 0) + row["n"]
        if row["reason"] and row["n"]:
            line["reasons"].append(f"{row['reason'].replace('_', ' ')} {row['n']:,}")
    return list(lines.values())
