"""The report page of a pipeline run: one self-contained HTML file, and the headline table it shares with the CLI.

Nothing on the page is loaded from elsewhere and nothing on it runs: no script, figures as inline SVG, styles inside.
Whatever a model or a data set said is text, escaped by the template engine.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined

from flows.report import sections as report_sections
from flows.stages.every import STAGES
from flows.stages.outcome import Outcome, PipelineReport
from flows.stages.registry import Headline, Stage
from gptcore.files import write_text

TEMPLATES = Path(__file__).with_name("templates")
_LONGEST_TEXT = 1500


class SummaryRow(NamedTuple):
    """One line of the headline table."""

    stage: str
    """Name of the stage."""
    metric_name: str
    """Name of the figure; ``-`` if the stage measured nothing."""
    metric_value: float | str
    """The figure, or a text where one number would not do."""
    seconds: float
    """How long the stage took now."""
    run_id: str | None
    """Its MLflow run."""
    cached: bool
    """Whether the output was there already."""


def summary_rows(report: PipelineReport) -> list[SummaryRow]:
    """One headline figure per stage, in the order of the stages."""
    return [
        SummaryRow(made.stage, *_headline(made, report), made.seconds, made.run_id, made.cached)
        for made in report.stages
    ]


def _headline(made: Outcome, report: PipelineReport) -> Headline:
    headline = STAGES[made.stage].headline
    if headline is not None:
        return headline(report) or ("-", "-")
    return next(
        ((name, value) for name, value in made.result.metrics.items() if not name.startswith("perf/")), ("-", "-")
    )


def write_report(report: PipelineReport, path: Path) -> Path:
    """Write the page and return its path; the file is whole or absent.

    Raises:
        DataError: a file that a stage left cannot be read; names file and line.
        OutOfDiskError: the disk is full.
    """
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(TEMPLATES), PrefixLoader({s.name: _room(s) for s in STAGES.values()})]),
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


def _room(stage: Stage) -> FileSystemLoader:
    """The templates in the room of a stage."""
    spec = importlib.util.find_spec(stage.room)
    assert spec is not None
    return FileSystemLoader(list(spec.submodule_search_locations or ()))


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


def _percent_change(value: float | None, digits: int = 2) -> str:
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
    "signed": _percent_change,
    "size": _size,
    "duration": _duration,
    "cut": _cut,
}
