"""A checkpoint as a model on a running Ollama server: https://docs.ollama.com/api#create-a-model.

The file is sent as a blob that is named by its sha256, then the model is made of it, with the template, the stop words
and the window of the prompt style that it was trained with.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import ollama

from gptcore.errors import ExportMismatch, GptcoreError
from gptcore.export import GGUFExport, Packing, export_gguf
from gptcore.export.modelfile import ollama_parameters, ollama_template

_TIMEOUT = httpx.Timeout(600.0, connect=10.0)


class OllamaRefused(GptcoreError):
    """The Ollama server is not there, or did not make the model."""

    exit_code = 6


def export_ollama(
    source: Path, name: str, *, host: str | None, packing: Packing, on_status: Callable[[str], None] | None = None
) -> GGUFExport:
    """Make the model ``name`` on the server of a checkpoint; an older model of that name is replaced by the server.

    Args:
        source: the checkpoint.
        name: as in ``ollama run NAME``.
        host: of the server; None takes OLLAMA_HOST, and loopback without it.
        packing: of the matrices' numbers.
        on_status: told what the server does.

    Raises:
        ConfigError: the checkpoint cannot be written as GGUF.
        OllamaRefused: the server is not there, or refuses the file.
        ExportMismatch: the server's model has another template than was asked for.
    """
    client = ollama.Client(host, timeout=_TIMEOUT)
    with contextlib.closing(client._client), tempfile.TemporaryDirectory(prefix="gptworks-") as place:
        with _refusals(host):
            client.list()  # before the work, not after it
        written = export_gguf(source, Path(place) / "model", packing=packing)
        template = ollama_template(written.template)
        parameters = ollama_parameters(written.template, context_length=written.context_length)
        with _refusals(host):
            digest = client.create_blob(written.file)
            files = {written.file.name: digest}
            last = ""
            for step in client.create(name, files=files, template=template, parameters=parameters, stream=True):
                last = step.status or ""
                if on_status:
                    on_status(last)
            if last != "success":
                raise OllamaRefused(f"Ollama ended with {last!r} and not with success; its log says why")
            shown = client.show(name)
    if shown.template != template:
        raise ExportMismatch(
            f"Ollama keeps another template for {name} than it was given; prompts would not be those of the training"
        )
    return written


@contextlib.contextmanager
def _refusals(host: str | None) -> Iterator[None]:
    place = host or "OLLAMA_HOST"
    try:
        yield
    except (ConnectionError, httpx.TransportError) as error:
        raise OllamaRefused(f"no Ollama answers at {place} ({error}); start it: ollama serve") from error
    except ollama.ResponseError as error:
        raise OllamaRefused(
            f"Ollama at {place} refuses the model: {error.error} (status {error.status_code}); versions before 2026 "
            "may not know the architecture: update Ollama"
        ) from error
