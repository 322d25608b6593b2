"""``gptworks compare``: two tracked runs side by side. Only the options are here, so that ``--help`` is quick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from flows.cli.models import table_console
from flows.settings import read_settings

if TYPE_CHECKING:
    from flows.judged_runs.compare import Comparison

_SAMPLES_SHOWN = 5


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="Reference run.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Run that is compared with it.")],
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 1,
    keep: Annotated[bool, typer.Option(help="Keep the comparison as a run of gptworks/compare.")] = True,
) -> None:
    """Show how two runs differ: settings, metrics, items with intervals, samples side by side."""
    from flows.judged_runs import compare as comparing

    settings = read_settings()
    found = comparing.compare(settings, first, second, seed=seed)
    _print(found)
    if keep:
        table_console().print(f"MLflow run {comparing.keep(settings, found)}", soft_wrap=True)


def _print(found: Comparison) -> None:
    from flows.judged_runs.compare import tables

    console = table_console()
    console.print(f"first:  {found.first[1]} ({found.first[0]})", soft_wrap=True)
    console.print(f"second: {found.second[1]} ({found.second[0]})", soft_wrap=True)
    for note in found.notes:
        console.print(f"[bold yellow]note:[/] {note}", soft_wrap=True)
    for head, rows in tables(found).items():
        _table(head, [row for row in rows if not row[0].startswith("perf/")])
    for row in found.samples[:_SAMPLES_SHOWN]:
        _table(("asked", row["question"]), [("first", row["first"]), ("second", row["second"])])
    if len(found.samples) > _SAMPLES_SHOWN:
        console.print(f"{len(found.samples) - _SAMPLES_SHOWN} more samples are in samples.json of the comparison's run")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table()
    for title in head:
        table.add_column(Text(title), overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    table_console().print(table)
