"""A checkpoint as a model on a running Ollama server: https://docs.ollama.com/api#create-a-model.

The file is sent as a blob that is named by its sha256, then the model is made of it, with the template, the stop words
and the window of the prompt style that it was trained with.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import ollama

from flows.settings import read_settings
from gptcore.errors import ExportMismatch, GptcoreError
from gptcore.export.equality import Agreement
from gptcore.export.exporter import Job
from gptcore.export.gguf import GGUFExporter, template_of
from gptcore.export.modelfile import ollama_parameters, ollama_template

_TIMEOUT = httpx.Timeout(600.0, connect=10.0)


class OllamaRefused(GptcoreError):
    """The Ollama server is not there, or did not make the model."""

    exit_code = 6


@dataclass(frozen=True)
class OllamaExporter(GGUFExporter):
    """The file goes to the server where it has been held against the model; the server itself gives no logits."""

    host: str | None = None
    """Of the server; None takes that of the settings."""

    def check(self, out: str) -> None:
        """Refuse before the work, not after it.

        Raises:
            OllamaRefused: the server is not there.
        """
        del out
        with self._client() as client:
            client.list()

    @contextlib.contextmanager
    def place(self, out: str) -> Iterator[Path]:
        """A folder for the time of the work: what stays is the server's."""
        del out
        with tempfile.TemporaryDirectory(prefix="gptworks-") as place:
            yield Path(place)

    def finish(self, job: Job, folder: Path, found: Agreement | None) -> None:
        """Make the model on the server; an older one of that name is replaced.

        Raises:
            OllamaRefused: the server refuses the file.
            ExportMismatch: the server's model has another template than was asked for.
        """
        del found
        (file,) = folder.glob("*.gguf")
        style = template_of(job.loaded)
        template = ollama_template(style)
        parameters = ollama_parameters(style, context_length=job.loaded.decoder.config.context_length)
        with self._client() as client:
            files = {file.name: client.create_blob(file)}
            last = ""
            for step in client.create(job.out, files=files, template=template, parameters=parameters, stream=True):
                last = step.status or ""
                job.say(last)
            if last != "success":
                raise OllamaRefused(f"expected Ollama to end with success, got {last!r}; see its log")
            shown = client.show(job.out)
        if shown.template != template:
            raise ExportMismatch(
                f"Ollama keeps another template for {job.out} than it was given; prompts would not be those of the "
                "training"
            )

    def describe(self, job: Job) -> str:
        """How to run it."""
        return f"made: ollama run {job.out}"

    @contextlib.contextmanager
    def _client(self) -> Iterator[ollama.Client]:
        host = self.host or read_settings().ollama_host
        client = ollama.Client(host, timeout=_TIMEOUT)
        with contextlib.closing(client._client), _refusals(host):
            yield client


@contextlib.contextmanager
def _refusals(place: str) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, httpx.TransportError) as error:
        raise OllamaRefused(f"no Ollama server answers at {place} ({error}); start it: ollama serve") from error
    except ollama.ResponseError as error:
        raise OllamaRefused(
            f"Ollama at {place} refuses the model: {error.error} (status {error.status_code}); versions before 2026 "
            "may not know the architecture: update Ollama"
        ) from error
