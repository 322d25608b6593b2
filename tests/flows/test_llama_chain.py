"""The second decoder family through the whole chain, from raw text to exported models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.settings import read_settings
from flows.stages.every import STAGES
from flows.tracking.runs import connect

pytestmark = [pytest.mark.flows, pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]


def test_llama_goes_through_the_whole_chain_and_its_model_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTWORKS_HOME", str(tmp_path / "var"))
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def gptworks(*arguments: str) -> str:
        command = [sys.executable, "-m", "flows", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    family = ("--set", "pretrain.model=LlamaConfig", "--set", "pretrain.model.n_kv_heads=1")
    gptworks("pipeline", "--preset", "tiny", *family, "--set", "compress.methods=int8,int4")  # pruning is GPT-2's alone
    settings = read_settings()
    client = connect(settings)
    for stage in STAGES:
        experiment = client.get_experiment_by_name(f"gptworks/{stage}")
        assert experiment is not None, stage
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED", stage

    results = [
        json.loads(path.read_text())["result"]
        for stage in ("compress", "lora")
        for path in settings.store.glob(f"{stage}/*/manifest.json")
    ]
    assert len(results) == 2
    rows = [row for result in results for row in result["equivalence"]]
    required = [row for row in rows if row["must_equal"]]
    assert len(required) > 5
    assert all(row["equal"] for row in required), required

    (trained,) = settings.store.glob("finetune-instruct/*/run/checkpoint")
    gptworks("export", str(trained), str(tmp_path / "hf"), "--to", "hf")
    assert json.loads((tmp_path / "hf/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    gptworks("export", str(trained), str(tmp_path / "gguf"), "--to", "gguf")
    assert list((tmp_path / "gguf").glob("*.gguf"))
