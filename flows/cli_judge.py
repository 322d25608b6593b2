"""Commands about the judge. Only the options are here, so that ``--help`` is quick."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

HostOption = Annotated[str, typer.Option(help="Address to listen on.")]
PortOption = Annotated[int, typer.Option(help="0 takes a free one.")]
ScenarioOption = Annotated[str, typer.Option(help="What every request meets; --list tells them all.")]
DelayOption = Annotated[float, typer.Option(help="Seconds that an answer takes.")]
ModelOption = Annotated[str, typer.Option(help="The model that it has.")]
ListOption = Annotated[bool, typer.Option("--list", help="Print the scenarios and end.")]


def fake_ollama(
    host: HostOption = "127.0.0.1",
    port: PortOption = 11434,
    scenario: ScenarioOption = "score",
    delay: DelayOption = 0.0,
    model: ModelOption = "llama3:latest",
    list_scenarios: ListOption = False,
) -> None:
    """Serve an Ollama without a model until Ctrl-C, and say how many answers were asked."""
    from eval.testing.fake_ollama import SCENARIOS, serve

    console = Console()
    if list_scenarios:
        table = Table("scenario", "what a request meets")
        for name, what in SCENARIOS.items():
            table.add_row(name, what)
        console.print(table)
        return
    fake = serve(
        host=host,
        port=port,
        scenario=scenario,
        delay=delay,
        model=model,
        on_start=lambda fake: console.print(f"{fake.model} ({scenario}) answers at {fake.url}; Ctrl-C ends it"),
    )
    console.print(f"{len(fake.calls)} answers asked")
