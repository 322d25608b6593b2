"""A decision as people read it: rows, markdown, one self-contained page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flows.gate.decide import Decision, Row

_COLUMNS = ("demand", "challenger", "champion", "difference", "interval", "items", "outcome", "why")
_PAGE = """<!doctype html>
<meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ border-bottom: 1px solid #8884; padding: .35rem .6rem; text-align: left; vertical-align: top; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.passed {{ color: #1a7f37; }} .failed {{ color: #c01c28; font-weight: 600; }} .undecided {{ color: #9a6700; }}
</style>
<h1>{title}</h1><p>{reason}</p><p>{note}</p>
<table><tr>{head}</tr>{rows}</table>
"""


def table_rows(decision: Decision) -> list[dict[str, Any]]:
    """One row per demand, as text, in the columns of every form of the table."""
    return [dict(zip(_COLUMNS, _cells(row), strict=True)) for row in decision.rows]


def markdown(decision: Decision, *, title: str) -> str:
    """The decision for the pages of Prefect and MLflow."""
    head = ["| " + " | ".join(_COLUMNS) + " |", "|---|---:|---:|---:|---:|---:|---|---|"]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in decision.rows]
    return "\n".join([f"**{title}: {decision.verdict}**", "", decision.reason, "", *head, *lines, "", _note(decision)])


def html(decision: Decision, *, title: str) -> str:
    """The decision as one page without anything from elsewhere."""
    from html import escape

    def cells(row: Row) -> str:
        classes = ["demand", *["number"] * 5, row.outcome, "why"]
        parts = (f'<td class="{name}">{escape(text)}</td>' for name, text in zip(classes, _cells(row), strict=True))
        return f"<tr>{''.join(parts)}</tr>"

    return _PAGE.format(
        title=escape(f"{title}: {decision.verdict}"),
        reason=escape(decision.reason),
        note=escape(_note(decision)),
        head="".join(f"<th>{name}</th>" for name in _COLUMNS),
        rows="".join(map(cells, decision.rows)),
    )


def metrics(decision: Decision) -> dict[str, float]:
    """Numbers for the tracker: of each row what was measured, and how many rows ended how."""
    found: dict[str, float] = {}
    for row in decision.rows:
        name = f"{row.kind}/{row.name.replace(' ', '_')}"
        numbers: Mapping[str, float | None] = {
            "challenger": row.challenger,
            "champion": row.champion,
            "difference": row.difference,
            "ci_low": row.low,
            "ci_high": row.high,
        }
        known = ((what, value) for what, value in numbers.items() if value is not None and not math.isnan(value))
        found |= {f"{name}/{what}": float(value) for what, value in known}
    for outcome in ("passed", "failed", "undecided"):
        found[f"gate/{outcome}"] = float(sum(row.outcome == outcome for row in decision.rows))
    return found


def _cells(row: Row) -> list[str]:
    unit = f" ({row.unit})" if row.unit else ""
    has_interval = row.low is not None and row.high is not None and not math.isnan(row.low)
    return [
        f"{row.kind} {row.name}{unit}: {row.demand}",
        _format(row.challenger),
        _format(row.champion),
        "" if row.difference is None else f"{row.difference:+.3g}",
        f"{row.low:+.3g} to {row.high:+.3g}" if has_interval else "",
        "" if row.n is None else str(row.n),
        row.outcome,
        row.note,
    ]


def _format(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:,.4g}"


def _note(decision: Decision) -> str:
    return (
        f"Evaluation key {decision.eval_key}. Differences are taken so that more is better for the challenger; "
        "intervals are paired bootstrap intervals over the items. All demands must be met."
    )
