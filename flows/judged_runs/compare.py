"""Two tracked runs side by side: settings that differ, metrics, items with intervals, samples; kept as a run itself.

Where both runs have tables of rows (``scores.json``, ``responses.json``), items are paired by what was asked, and the
difference of each numeric column gets a bootstrap interval over the items. A single figure has none: how much two
trainings differ by chance is what other seeds would show.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from eval.stats.two_runs import measure_paired_difference
from flows.settings import Settings
from flows.tracking.notes import NOTE
from flows.tracking.runs import PREFIX, connect, stage_run
from flows.tracking.sync import find_mlflow_id
from gptcore.errors import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TABLES = ("scores.json", "responses.json", "samples.json")
"""Tables of rows that stages log, the most telling first."""
_QUESTION = (("instruction", "input"), ("prompt", "step"))
"""Columns that say which item a row is about; of a table, the first that it has."""
_ANSWERS = ("response", "text")
"""Columns with what a model wrote."""

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class ItemDifference:
    """One numeric column over the items of both runs."""

    column: str
    first: float
    """Mean in the first run."""
    second: float
    """Mean in the second run."""
    difference: float
    """Second minus first, mean over the pairs."""
    low: float
    """95% paired bootstrap; NaN with fewer than two items."""
    high: float
    """As ``low``."""
    n: int
    """Pairs."""

    @property
    def is_significant(self) -> bool:
        """Whether the interval is all on one side of no difference."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs."""

    first: tuple[str, str]
    """Id and name of the first run."""
    second: tuple[str, str]
    """Id and name of the second run."""
    params: dict[str, tuple[str | None, str | None]]
    """Params that are not equal; None where a run has none."""
    metrics: dict[str, tuple[float | None, float | None]]
    """The latest value of each metric; None where a run has none."""
    items: tuple[ItemDifference, ...]
    """Numeric columns of the tables that both runs have."""
    samples: tuple[Row, ...]
    """What was asked (``question``), the ``reference`` if there is one, and what ``first`` and ``second`` answered."""
    notes: tuple[str, ...]
    """Why the figures may not be comparable; empty if nothing speaks against it."""


def compare(settings: Settings, first: str, second: str, *, seed: int = 1) -> Comparison:
    """Compare two runs that MLflow has.

    Raises:
        ConfigError: a run is not there, or both are the same.
        TrackingError: MLflow cannot be reached.
    """
    client = connect(settings)
    one, two = (_run(client, settings, run_id) for run_id in (first, second))
    if one.info.run_id == two.info.run_id:
        raise ConfigError(f"{first} and {second} are the same run; name two: gptworks runs --stage STAGE")
    tables = [_tables(client, run) for run in (one, two)]
    pairs = {
        name: _pair_rows(tables[0][name], tables[1][name]) for name in TABLES if all(name in each for each in tables)
    }
    return Comparison(
        first=(one.info.run_id, str(one.info.run_name)),
        second=(two.info.run_id, str(two.info.run_name)),
        params={name: pair for name, pair in _both(one.data.params, two.data.params).items() if pair[0] != pair[1]},
        metrics=_both(one.data.metrics, two.data.metrics),
        items=tuple(each for pair in pairs.values() for each in _columns(pair, seed=seed)),
        samples=tuple(_samples(next(iter(pairs.values()), []))),
        notes=tuple(_caveats(one, two)),
    )


def keep(settings: Settings, found: Comparison) -> str:
    """Keep a comparison as a run of the experiment ``gptworks/compare``; its id."""
    (a, a_name), (b, b_name) = found.first, found.second
    key = hashlib.sha256(f"{a} {b}".encode()).hexdigest()[:16]
    tags = {f"{PREFIX}.run.first": a, f"{PREFIX}.run.second": b, NOTE: markdown(found)}
    name, params = f"{b_name} against {a_name}", {"first": a, "second": b}
    with stage_run(settings, stage="compare", name=name, key=key, params=params, tags=tags) as log:
        changes = {name: two - one for name, (one, two) in found.metrics.items() if one is not None and two is not None}
        log.log_metrics({f"difference/{name}": value for name, value in changes.items()})
        for item in found.items:
            bounds = {"difference": item.difference, "ci_low": item.low, "ci_high": item.high, "n": float(item.n)}
            log.log_metrics({f"items/{item.column}/{name}": value for name, value in bounds.items() if value == value})
        log.log_table([_value_row(name, values) for name, values in found.params.items()], "params.json")
        log.log_table([_value_row(name, values) for name, values in found.metrics.items()], "metrics.json")
        log.log_table(list(found.samples), "samples.json")
        log.log_text(markdown(found), "comparison.md")
        return log.run_id


def markdown(found: Comparison) -> str:
    """The comparison as a page; of many samples the first ten."""
    (a, a_name), (b, b_name) = found.first, found.second
    lines = [f"**[{b_name}](#/runs/{b})** (second) against **[{a_name}](#/runs/{a})** (first)", ""]
    lines += [f"- {note}" for note in found.notes]
    for head, rows in tables(found).items():
        lines += _table(head, rows)
    shown = [(row["question"], row["first"], row["second"]) for row in found.samples[:10]]
    lines += _table(("asked", "first", "second"), shown)
    return "\n".join(lines)


def tables(found: Comparison) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """Params, metrics and items as text, by the heads of their columns; a star where an interval does not hold zero."""
    items: list[tuple[str, ...]] = [
        (
            *(item.column, f"{item.first:.4g}", f"{item.second:.4g}"),
            f"{item.difference:+.4g} ({item.low:+.4g} to {item.high:+.4g}){' *' if item.is_significant else ''}",
            str(item.n),
        )
        for item in found.items
    ]
    return {
        ("param", "first", "second"): [(name, *(v or "" for v in pair)) for name, pair in found.params.items()],
        ("metric", "first", "second", "difference"): [(name, *_figures(*p)) for name, p in found.metrics.items()],
        ("per item", "first", "second", "difference (95%)", "items"): items,
    }


def _figures(one: float | None, two: float | None) -> tuple[str, str, str]:
    shown = ["" if value is None else f"{value:.6g}" for value in (one, two)]
    return shown[0], shown[1], "" if one is None or two is None else f"{two - one:+.4g}"


def _run(client: MlflowClient, settings: Settings, run_id: str) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        known = find_mlflow_id(settings, run_id)
        return client.get_run(known or run_id)
    except MlflowException as error:
        raise ConfigError(
            f"there is no run {run_id!r} in {settings.mlflow_uri}; list them: gptworks runs --stage STAGE"
        ) from error


def _tables(client: MlflowClient, run: Run) -> dict[str, list[Row]]:
    """The tables of a run; those of a pipeline's run are its evaluation's and its instructed model's."""
    inner = [run.data.tags.get(f"{PREFIX}.run.{stage}") for stage in ("evaluate", "finetune-instruct", "pretrain")]
    whole = run.data.tags.get(f"{PREFIX}.stage") == "pipeline"
    found: dict[str, list[Row]] = {}
    for run_id in [each for each in inner if each] if whole else [run.info.run_id]:
        present = {file.path for file in client.list_artifacts(run_id)}
        with tempfile.TemporaryDirectory() as folder:
            for name in sorted(present.intersection(TABLES) - found.keys()):
                table = json.loads(Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8"))
                found[name] = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    return found


def _pair_rows(first: Sequence[Row], second: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The rows about the same item; the n-th time an item is asked goes with the n-th."""
    before = _by_question(first)
    return [(before[asked], row) for asked, row in _by_question(second).items() if asked in before]


def _by_question(rows: Sequence[Row]) -> dict[tuple[str, ...], Row]:
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        columns = next((keys for keys in _QUESTION if keys[0] in row), tuple(sorted(row))[:1])
        asked, n = tuple(str(row.get(column, "")) for column in columns), 0
        while (*asked, str(n)) in found:
            n += 1
        found[(*asked, str(n))] = row
    return found


def _columns(pairs: Sequence[tuple[Row, Row]], *, seed: int) -> list[ItemDifference]:
    found = []
    for column in pairs[0][0] if pairs else ():
        if column in ("id", "step"):
            continue
        values = [(_number(a[column]), _number(b.get(column))) for a, b in pairs]
        both = [(a, b) for a, b in values if a is not None and b is not None]
        if both:
            one, two = [a for a, _ in both], [b for _, b in both]
            paired = measure_paired_difference(one, two, seed=seed)
            means = sum(one) / len(one), sum(two) / len(two)
            found.append(ItemDifference(column, *means, paired.difference, paired.low, paired.high, paired.n))
    return found


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value == value else None


def _samples(pairs: Sequence[tuple[Row, Row]]) -> list[Row]:
    found = []
    for one, two in pairs:
        answer = next((column for column in _ANSWERS if column in one and column in two), None)
        if answer is not None:
            question = " ".join(str(one[key]) for key in ("instruction", "input", "prompt") if one.get(key))
            reference = one.get("reference", one.get("output", ""))
            found.append({"question": question, "reference": reference, "first": one[answer], "second": two[answer]})
    return found


def _caveats(one: Run, two: Run) -> list[str]:
    """What speaks against taking the figures side by side."""
    caveats = {
        "stage": "the runs are of different stages ({}, {}): their metrics mean other things",
        "data": "they saw different data ({}, {}): losses over other tokens do not compare",
        "tokenizer": "their tokenizers differ ({:.8}, {:.8}): compare bits per byte",
        "judge.group": "another judge, prompt or item set ({:.8}, {:.8})",
    }
    tags = _both(one.data.tags, two.data.tags)
    pairs = ((text, *tags.get(f"{PREFIX}.{tag}", (None, None))) for tag, text in caveats.items())
    found = [text.format(a, b) for text, a, b in pairs if a and b and a != b]
    return found + [f"{run.info.run_name} is {run.info.status}" for run in (one, two) if run.info.status != "FINISHED"]


def _both(one: Mapping[str, T], two: Mapping[str, T]) -> dict[str, tuple[T | None, T | None]]:
    return {name: (one.get(name), two.get(name)) for name in sorted({*one, *two})}


def _value_row(name: str, values: tuple[Any, Any]) -> Row:
    return {"name": name, "first": values[0], "second": values[1]}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A markdown table, or nothing without rows; cells are cut and kept on one line."""
    if not rows:
        return []
    cells = [[str(cell).replace("\n", " ").replace("|", "\\|")[:300] for cell in row] for row in rows]
    return ["", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in cells)]
