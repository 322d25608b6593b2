"""The command that serves a model."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from flows.cli.models import CheckpointArgument
from flows.settings import read_settings


def serve(
    checkpoint: CheckpointArgument,
    name: Annotated[str, typer.Option(help="Name of the model for clients.")] = "gptworks",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 chooses a free one.")] = 8080,
    token: Annotated[
        str | None, typer.Option(help="Bearer token that clients must send.", envvar="GPTWORKS_SERVE_TOKEN")
    ] = None,
    slots: Annotated[int, typer.Option(help="Requests that are answered at once.")] = 8,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait; more are refused with status 503.")] = 64,
    max_body: Annotated[int, typer.Option(help="Size limit of a request in bytes.")] = 1_000_000,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Answers that do not depend on what else is being answered, to the last bit."),
    ] = False,
    drain: Annotated[int, typer.Option(help="Seconds to finish running answers when the server stops.")] = 30,
    template: Annotated[str | None, typer.Option(help="Prompt template instead of the checkpoint's own.")] = None,
) -> None:
    """Serve a model to OpenAI's and Ollama's clients, with a chat page, until Ctrl-C."""
    from flows.serving import ServeConfig, Served, Server
    from flows.sources.hub import model_folder

    bears = {"slots": slots, "max_queue": max_queue, "max_body_bytes": max_body, "drain_seconds": drain}
    config = ServeConfig(host=host, port=port, token=token, exact=exact, **bears)
    console = Console()
    served = Served.load(model_folder(checkpoint, read_settings().cache), name=name, template=template)
    if not config.is_local and token is None:
        console.print(f"warning: anybody who reaches {host} can use this server; require a token with --token")

    server = Server(served, config)
    url = server.url
    console.print(f"model:  {name}, {served.details['parameter_size']}, context of {served.context_length} tokens")
    console.print(f"chat:   {url}/", soft_wrap=True)
    console.print(f"OpenAI: base_url {url}/v1    Ollama: host {url}    metrics: {url}/metrics", soft_wrap=True)
    server.run()
    console.print("stopped")
