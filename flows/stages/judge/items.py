"""What was judged, as the tracker, the files, the report page and a later comparison take it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.judge.prompt import Prompts, load_prompts
from eval.judge.schema import PAIRWISE, POINTWISE, Form
from eval.run import join_panel_scores
from eval.stats import ItemScores
from eval.stats.power import compute_minimum_detectable
from eval.types import Report
from flows.stages.context import Context
from flows.stages.judge.numbers import (
    comparison_numbers,
    finite,
    match_rows,
    panel_facts,
    panel_numbers,
    plain,
    safe_name,
    tournament_facts,
    tournament_numbers,
)
from flows.stages.judge.sitting import FOLDER, MAIN, NOT_VALIDATED, Judged, Sitting
from gptcore.files import write_json, write_json_lines, write_text


def metrics(sitting: Sitting) -> dict[str, float]:
    """Numbers for the tracker: the judge's, the controls', each model's, each comparison's, the panel's, the pairs'.

    ``judge/valid`` is 1 or 0. ``judge/minimum_detectable``: how far the mean of a second model, whose scores spread as
    much and go their own way, must be for 80% power at 5%; where two runs are compared, their own figure is smaller.
    """
    judged, found = sitting.main, dict[str, float]()
    for name, report in judged.reports.items():
        prefix = "" if name == MAIN else f"{name}/"
        found |= {f"{prefix}{metric}": value for metric, value in report.metrics.items()}
        found[f"{prefix}judge/valid"] = float(judged.validity[name].valid)
    found["judge/minimum_detectable"] = _detectable(judged.reports[MAIN])
    for check in judged.validity[MAIN].checks:
        found[f"judge/control/{check.name}"] = check.value
    for name, comparison in judged.comparisons.items():
        numbers = comparison_numbers(comparison, judged.at_equal_length[name])
        found |= {f"judge/{name}_over_{judged.baseline}/{metric}": value for metric, value in numbers.items()}
    for tag, one in sitting.judges.items() if len(sitting.judges) > 1 else ():
        numbers = {"mean": one.reports[MAIN].metrics["judge/mean"], "valid": float(one.validity[MAIN].valid)}
        found |= {f"judge/panel/{safe_name(tag)}/{metric}": value for metric, value in numbers.items()}
    for name, agreement in sitting.agreement.items():
        prefix = "" if name == MAIN else f"{name}/"
        found |= {f"{prefix}judge/panel/{metric}": value for metric, value in panel_numbers(agreement).items()}
    if sitting.pairs is not None:
        numbers = tournament_numbers(sitting.pairs, unsound=judged.validity[MAIN].reasons)
        found |= {f"judge/pairs/{metric}": value for metric, value in numbers.items()}
    return finite(found)


def facts(sitting: Sitting) -> dict[str, Any]:
    """What the summary, the report page and a later comparison need, as plain JSON values; None for what is NaN."""
    judged = sitting.main
    main, validity = judged.reports[MAIN], judged.validity[MAIN]
    own = {name.removeprefix("judge/"): value for name, value in main.metrics.items()}
    found = {
        **own,
        "state": "scored" if validity.valid else NOT_VALIDATED,
        "reason": "; ".join(validity.reasons),
        "valid": validity.valid,
        "checks": [{**asdict(check), "passed": check.passed} for check in validity.checks],
        "minimum_detectable": _detectable(main),
        "models": _models(judged),
        "baseline": judged.baseline,
        "comparisons": {
            name: {**asdict(one), "at_equal_length": asdict(judged.at_equal_length[name])}
            for name, one in judged.comparisons.items()
        },
        "panel": _panel(sitting) if len(sitting.judges) > 1 else None,
        "pairs": None if sitting.pairs is None else tournament_facts(sitting.pairs, unsound=validity.reasons),
        "provenance": main.provenance,
    }
    return {name: plain(value) for name, value in found.items()}


def _models(judged: Judged) -> dict[str, Any]:
    return {
        name: {
            **{metric.removeprefix("judge/"): value for metric, value in report.metrics.items()},
            "valid": judged.validity[name].valid,
            "invalid_because": list(judged.validity[name].reasons),
        }
        for name, report in judged.reports.items()
    }


def _panel(sitting: Sitting) -> dict[str, Any]:
    judges = {
        tag: {
            "models": _models(one),
            "verdicts": {name: comparison.verdict for name, comparison in one.comparisons.items()},
            "provenance": one.reports[MAIN].provenance,
        }
        for tag, one in sitting.judges.items()
    }
    return {"judges": judges, "agreement": {name: panel_facts(one) for name, one in sitting.agreement.items()}}


def write_tables(sitting: Sitting, context: Context, *, summary: Mapping[str, Any]) -> None:
    """Every question with its whole prompt and raw answer, the controls, the rubrics, the forms and the summary."""
    folder, judged = context.folder / FOLDER, sitting.main
    write_json_lines(folder / "items.jsonl", _item_rows(judged))
    write_json_lines(folder / "controls.jsonl", _control_rows(judged))
    others = [
        {"judge": tag, **row}
        for tag, one in list(sitting.judges.items())[1:]
        for row in [*_item_rows(one), *({"model": MAIN, **row} for row in _control_rows(one))]
    ]
    if others:
        write_json_lines(folder / "panel.jsonl", others)
        scored = join_panel_scores({tag: one.reports[MAIN] for tag, one in sitting.judges.items()})
        context.log.log_table([_flat(row) for row in scored], "panel.json")
    if sitting.pairs is not None:
        write_json_lines(folder / "pairs.jsonl", match_rows(sitting.pairs))
        _write_instrument(folder, "pairwise_", load_prompts("pairwise"), PAIRWISE)
    _write_instrument(folder, "", load_prompts("pointwise"), POINTWISE)
    write_json(folder / "report.json", dict(summary))
    context.log.log_artifact(folder)


def _write_instrument(folder: Path, prefix: str, prompts: Prompts, form: Form) -> None:
    for part in ("system", "user", "repair"):
        write_text(folder / f"{prefix}rubric_{part}.md", f"{getattr(prompts, part)}\n")
    write_json(folder / f"{prefix}schema.json", dict(form.schema))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], **row["scores"], **{f"{tag}: reason": reason for tag, reason in row["reasons"].items()}}


def _item_rows(judged: Judged) -> list[dict[str, Any]]:
    return [{"model": name, **row} for name, report in judged.reports.items() for row in report.rows]


def _control_rows(judged: Judged) -> list[dict[str, Any]]:
    controls = judged.reports[MAIN].controls
    return controls.rows if controls else []


def params(sitting: Sitting) -> dict[str, Any]:
    """Everything that can change a score, to be logged under ``judge``: model, digests, versions, options, items."""
    provenance = sitting.main.reports[MAIN].provenance
    others = {
        safe_name(tag): one.reports[MAIN].provenance["judge"]["client"] for tag, one in list(sitting.judges.items())[1:]
    }
    return {
        **provenance["judge"],
        **{name: value for name, value in provenance.items() if name != "judge"},
        **({"panel": others} if others else {}),
        **({"pairs": sitting.pairs.matches[0].report.provenance["judge"]} if sitting.pairs else {}),
    }


def tags(sitting: Sitting) -> dict[str, str]:
    """Tags by which runs of one instrument, and those that may be believed, are found."""
    judged = sitting.main
    provenance = judged.reports[MAIN].provenance
    matches = sitting.pairs.matches if sitting.pairs else ()
    return {
        "gptworks.judge.valid": str(judged.validity[MAIN].valid).lower(),
        "gptworks.judge.group": provenance["comparable_group"],
        "gptworks.judge.items": provenance["items_digest"],
        **{
            f"gptworks.judge.{name}_over_{judged.baseline}": comparison.verdict
            for name, comparison in judged.comparisons.items()
        },
        **({"gptworks.judge.panel": ", ".join(sitting.judges)} if len(sitting.judges) > 1 else {}),
        **(
            {"gptworks.judge.pairs.valid": str(judged.validity[MAIN].valid and sitting.pairs.validity.valid).lower()}
            if sitting.pairs
            else {}
        ),
        **{f"gptworks.judge.pairs.{one.candidate}_over_{one.baseline}": one.verdict for one in matches},
    }


def _detectable(report: Report) -> float:
    scored = ItemScores.from_rows(report.rows).drop_unscored()
    return math.sqrt(2) * compute_minimum_detectable(scored)
