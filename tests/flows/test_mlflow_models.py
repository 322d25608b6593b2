"""The checkpoint as MLflow's model: loaded here, and served by ``mlflow models serve`` in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import mlflow.pyfunc
import pandas as pd
import pytest
import torch

from flows.export.mlflow_models import MLflowExporter, export_mlflow
from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.errors import ConfigError, ExportMismatch
from gptcore.export.exporter import Job, compare_written
from gptcore.generation import Sampling
from gptcore.models import GPTConfig, LlamaConfig, ModelConfig
from gptcore.text import TextModel
from gptcore.tokenizer import train_bpe
from gptcore.transforms import Classifier

pytestmark = [pytest.mark.flows, pytest.mark.filterwarnings("ignore")]
SIZES: dict[str, Any] = {"context_length": 64, "width": 32, "n_layers": 2, "n_heads": 2}
ROOT = Path(__file__).resolve().parents[2]


def saved(path: Path, config: ModelConfig, *, labels: tuple[str, ...] = ()) -> Path:
    """A checkpoint of random weights."""
    tokenizer = train_bpe(["the keeper counted the ships"], vocab_size=260)
    torch.manual_seed(0)
    model = config.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    heads = (Classifier(labels=labels, train="all"),) if labels else ()
    for head in heads:
        model = head.apply(model)
        torch.nn.init.normal_(model.head.weight)
    template = None if labels else "short"
    spec = ModelSpec(config, heads, template=template, tokenizer_digest=tokenizer.digest)
    checkpoint.save(path, model=model, spec=spec, tokenizer=tokenizer)
    return path


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of ``mlflow models serve`` with the model of a folder."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow calls uvicorn by its name
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    with subprocess.Popen(
        [*command, "-p", str(port), "-w", "1"], env=environment, start_new_session=True, cwd=folder.parent
    ) as process:
        try:
            url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 240
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    if httpx.get(f"{url}/ping", timeout=2).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.5)
            else:
                pytest.fail("mlflow models serve does not answer")
            yield url
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def test_a_language_model_answers_as_the_checkpoint_does(tmp_path: Path) -> None:
    source = saved(tmp_path / "c", LlamaConfig(260, **SIZES))
    folder = export_mlflow(source, tmp_path / "model")
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".bin")]
    rows = pd.DataFrame({"prompt": ["Count the ships.", "Who?"], "input": ["four", ""]})
    told = mlflow.pyfunc.load_model(str(folder)).predict(rows, params={"max_tokens": 9})
    wanted = TextModel.load(source).respond(
        [("Count the ships.", "four"), ("Who?", "")], sampling=Sampling(max_new_tokens=9)
    )
    assert told["response"].tolist() == wanted
    export_mlflow(source, folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not an earlier export"):
        export_mlflow(source, folder)


def test_a_classifier_tells_labels_whatever_stands_beside(tmp_path: Path) -> None:
    source = saved(tmp_path / "c", GPTConfig(260, **SIZES), labels=("ham", "spam", "news"))
    model = mlflow.pyfunc.load_model(str(export_mlflow(source, tmp_path / "model")))
    texts = ["Count the ships.", "", "x" * 500]
    together = model.predict(pd.DataFrame({"text": texts}))
    assert set(together["label"]) <= {"ham", "spam", "news"}
    loaded = checkpoint.load(source)
    for text, label, probability in zip(texts, together["label"], together["probability"], strict=True):
        ids = torch.tensor([[*loaded.tokenizer.encode(text)[:63], loaded.tokenizer.end_of_text]])
        chances = loaded.model(ids)[0, -1].softmax(0)
        assert label == ("ham", "spam", "news")[int(chances.argmax())]
        assert probability == pytest.approx(float(chances.max()), abs=1e-5)


@pytest.mark.parametrize("labels", [(), ("ham", "spam")])
def test_a_folder_that_answers_otherwise_than_the_checkpoint_is_refused(
    tmp_path: Path, labels: tuple[str, ...]
) -> None:
    source = saved(tmp_path / "c", GPTConfig(260, **SIZES), labels=labels)
    other = saved(tmp_path / "other", LlamaConfig(260, **SIZES), labels=labels)
    exporter, folder = MLflowExporter(), export_mlflow(source, tmp_path / "model")
    job, another = (Job(path, str(folder), checkpoint.load(path), say=print) for path in (source, other))
    compare_written(exporter, job, folder, exporter.outputs(job))
    with pytest.raises(ExportMismatch, match=r"was read back and answers .*; expected|other logits than the model"):
        compare_written(exporter, another, folder, exporter.outputs(another))
    (folder / "artifacts/c/model.safetensors").unlink()
    with pytest.raises(ExportMismatch, match="was read back and is not what was meant"):
        compare_written(exporter, job, folder, exporter.outputs(job))


@pytest.mark.services
@pytest.mark.slow
@pytest.mark.parametrize("classifies", [False, True])
def test_mlflow_serves_it(tmp_path: Path, classifies: bool) -> None:
    labels = ("ham", "spam") if classifies else ()
    source = saved(tmp_path / "c", GPTConfig(260, **SIZES), labels=labels)
    column, text = ("text", "Count the ships.") if classifies else ("prompt", "Count the ships.")
    with served(export_mlflow(source, tmp_path / "model")) as url:
        answer = httpx.post(f"{url}/invocations", json={"dataframe_records": [{column: text}]}, timeout=60)
        wrong = httpx.post(f"{url}/invocations", json={"dataframe_records": [{"other": text}]}, timeout=60)
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["predictions"]
    if classifies:
        assert row["label"] in labels
    else:
        assert row["response"] == TextModel.load(source).respond([(text, "")], sampling=Sampling())[0]
    assert wrong.status_code == 400
