"""``gptworks export``: each form by its name, and a model made on an Ollama server."""

from __future__ import annotations

from pathlib import Path

import ollama
import pytest
import torch
from typer.testing import CliRunner

from eval.testing.fake_ollama import FakeOllama
from flows.cli.app import app
from flows.export.every import OLLAMA
from flows.export.ollama import OllamaRefused
from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.data.templates import template_by_name
from gptcore.export.exporter import write_export
from gptcore.models import GPTConfig
from gptcore.tokenizer import train_bpe


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny instructed checkpoint."""
    tokenizer = train_bpe(["the keeper counted the ships"], vocab_size=260)
    torch.manual_seed(0)
    config = GPTConfig(260, 40, width=32, n_layers=1, n_heads=2)
    spec = ModelSpec(config, template="alpaca", tokenizer_digest=tokenizer.digest)
    checkpoint.save(tmp_path / "c", model=config.build(), spec=spec, tokenizer=tokenizer)
    return tmp_path / "c"


def test_the_modelfile_holds_the_prompt_style(source: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["export", str(source), str(tmp_path / "small"), "--to", "gguf", "--packing", "q8_0"]
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "small" / "small-q8_0.gguf").is_file()
    text = (tmp_path / "small" / "Modelfile").read_text()
    template = text.split('TEMPLATE """')[1].split('"""')[0]
    prompt = template.replace("{{ if .System }}{{ .System }}\n\n{{ end }}", "").replace("{{ .Prompt }}", "Why?")
    assert prompt == template_by_name("alpaca").render_prompt("Why?") + "{{ .Response }}<|endoftext|>"
    assert text.startswith("FROM ./small-q8_0.gguf\n")
    assert 'PARAMETER stop """<|endoftext|>"""\nPARAMETER stop """\n### Instruction:"""\n' in text
    assert "PARAMETER num_ctx 40\nPARAMETER num_predict 20\n" in text
    again = CliRunner().invoke(
        app, ["generate", str(tmp_path / "small" / "small-q8_0.gguf"), "Why?", "--max-tokens", "3"]
    )
    assert again.exit_code == 0, again.output


def test_a_model_is_made_on_an_ollama_server(source: Path) -> None:
    with FakeOllama() as fake:
        told: list[str] = []
        done = write_export(OLLAMA, source, "keeper", options={"host": fake.url}, say=told.append)
        assert told[-1] == "success"
        assert done.place == "made: ollama run keeper"
        assert done.agreement is not None
        assert done.agreement.same_top > 0.9
        client = ollama.Client(fake.url)
        shown = client.show("keeper")
        client._client.close()
        made = fake.store.models["keeper:latest"]
        assert made["parameters"]["stop"] == ["<|endoftext|>", "\n### Instruction:"]
        assert made["parameters"]["num_ctx"] == 40
        (digest,) = made["files"].values()
        assert fake.store.blobs[digest.removeprefix("sha256:")][:4] == b"GGUF"
    assert "{{ .Prompt }}" in (shown.template or "")


def test_an_absent_server_is_told_before_the_work(source: Path) -> None:
    with pytest.raises(OllamaRefused, match=r"no Ollama answers at http://127\.0\.0\.1:9 .*start it: ollama serve"):
        write_export(OLLAMA, source, "keeper", options={"host": "http://127.0.0.1:9"})
