"""The report page of a pipeline run: one self-contained HTML file, and the headline table it shares with the CLI.

Nothing on the page is loaded from elsewhere and nothing on it runs: no script, figures as inline SVG, styles inside.
Whatever a model or a data set said is text, escaped by the template engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flows.report import sections as report_sections
from flows.stages.outcome import PipelineReport, StageReport
from gptcore.files import write_text

TEMPLATES = Path(__file__).with_name("templates")
_LONGEST_TEXT = 1500


class SummaryRow(NamedTuple):
    """One line of the headline table."""

    stage: str
    """Name of the stage."""
    metric_name: str
    """What is told of it; ``-`` if the stage measured nothing."""
    metric_value: float | str
    """The figure, or a text where one number would not do."""
    seconds: float
    """How long the stage took now."""
    run_id: str | None
    """Its MLflow run."""
    cached: bool
    """Whether the output was there already."""


def summary_rows(report: PipelineReport) -> list[SummaryRow]:
    """One headline figure per stage, in the order of the stages.

    Instruction fine-tuning is told by the ROUGE-L that the evaluation found, or by its held-out loss without one.
    """
    rows = []
    for stage in report.stages:
        name, value = _headline(stage, report)
        rows.append(SummaryRow(stage.stage, name, value, stage.seconds, stage.run_id, stage.cached))
    return rows


def _headline(stage: StageReport, report: PipelineReport) -> tuple[str, float | str]:
    find = _HEADLINES.get(stage.stage)
    found = find(stage, report) if find else None
    return found or ("-", "-")


def _first(metrics: dict[str, Any], *names: str) -> tuple[str, float | str] | None:
    return next(((name, float(metrics[name])) for name in names if metrics.get(name) is not None), None)


def _prepared(stage: StageReport, _: PipelineReport) -> tuple[str, float | str] | None:
    tokens = stage.result.get("tokens")
    return ("tokens", f"{sum(tokens.values()):,}") if tokens else None


def _instructed(stage: StageReport, report: PipelineReport) -> tuple[str, float | str] | None:
    evaluated = report.stage("evaluate")
    rouge = _first(evaluated.result.get("metrics", {}), "test/rouge_l") if evaluated else None
    return rouge or _first(stage.result.get("metrics", {}), "val/loss")


def _compressed(stage: StageReport, _: PipelineReport) -> tuple[str, float | str] | None:
    original, *others = stage.result.get("variants") or [None]
    if original is None or not others:
        return None
    first = next((row for row in others if row["name"] == "int8"), others[0])
    return f"{first['name']} size, perplexity", f"{first['bytes'] / original['bytes']:.0%}, {first['increase']:+.2%}"


def _evaluated(stage: StageReport, _: PipelineReport) -> tuple[str, float | str] | None:
    rouge = _first(stage.result.get("metrics", {}), "test/rouge_l")
    score = f"{rouge[1]:.4g}" if rouge else "-"
    return "test/rouge_l; judge", f"{score}; {judge_in_short(stage.result.get('judge') or {})}"


def judge_in_short(judge: dict[str, Any]) -> str:
    """What came of the judge in a few words: its mean, why that is not to be believed, or why there is none."""
    state, mean = judge.get("state", "off"), judge.get("mean")
    reason = str(judge.get("reason") or "")
    if state in ("off", "skipped"):
        short = reason.split(" (")[0].split(";")[0]  # what mends it stands in the report
        return f"judge: {state}, {short}" if short and state == "skipped" else f"judge: {state}"
    if mean is None or math.isnan(mean):
        told = f"nothing scored, {judge.get('unscored', 0):.0f} unscored"
    else:
        has_interval = judge.get("ci_low") is not None and judge.get("ci_high") is not None
        interval = f" ({judge['ci_low']:.1f} to {judge['ci_high']:.1f})" if has_interval else ""
        told = f"{mean:.1f} of 100{interval}"
    return f"judge: {told}" if state == "scored" else f"{state}: {reason.split(';')[0]}; {told}"


_HEADLINES: dict[str, Callable[[StageReport, PipelineReport], tuple[str, float | str] | None]] = {
    "prepare-data": _prepared,
    "pretrain": lambda s, _: _first(s.result.get("metrics", {}), "val/bits_per_byte", "val/perplexity", "val/loss"),
    "finetune-classifier": lambda s, _: _first(s.result.get("metrics", {}), "test/accuracy"),
    "finetune-instruct": _instructed,
    "lora": lambda s, _: _first(s.result.get("metrics", {}), "classify/test/accuracy", "instruct/val/loss"),
    "compress": _compressed,
    "evaluate": _evaluated,
}


def write_report(report: PipelineReport, path: Path) -> Path:
    """Write the page and return its path; the file is whole or absent.

    Raises:
        DataError: a file that a stage left cannot be read; names file and line.
        OutOfDiskError: the disk is full.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _FILTERS
    urls = {stage.stage: _web_address(stage.run_url) for stage in report.stages}
    page = environment.get_template("report.html.j2").render(
        report=report, rows=summary_rows(report), urls=urls, **report_sections.collect(report)
    )
    # lone surrogates are valid in JSON but not in UTF-8; one of them in a response must not cost the page
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))
    return path


def _web_address(url: str) -> str:
    return url if url.startswith(("http://", "https://")) else ""


def _number(value: Any, digits: int = 4) -> str:
    """Up to ``digits`` significant digits; a dash for nothing, text as it is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}%}"


def _signed(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:+z.{digits}%}"


def _size(n_bytes: float | None) -> str:
    if n_bytes is None:
        return "–"
    return f"{n_bytes / 1e6:,.2f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:,.1f} kB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _cut(text: str, limit: int = _LONGEST_TEXT) -> str:
    """At most ``limit`` characters, and how many more there are."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"


_FILTERS: dict[str, Callable[..., str]] = {
    "number": _number,
    "percent": _percent,
    "signed": _signed,
    "size": _size,
    "duration": _duration,
    "cut": _cut,
}
