"""Networks that live only in the tests, as the model of a whole chain: they go through it, or are refused before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.chain.engine import Chain
from flows.chain.plan import plan
from flows.chain.request import OwnData, configuration
from flows.progress import progress_bar
from flows.settings import read_settings
from flows.stages.compress.result import CompressResult
from flows.stages.pretrain.result import PretrainResult
from gptcore import checkpoint
from gptcore.errors import ConfigError
from tests.house.networks import HouseDecoderConfig, HouseEncoderConfig, HouseSeq2SeqConfig

SMALL = ("compress.methods=int8", "pretrain.model.width=16", "lora.targets=qkv,out")


@pytest.fixture
def rows(tmp_path: Path) -> OwnData:
    """Own instructions and labelled rows."""
    asked = [{"instruction": f"Add {i} and {3 * i}.", "output": f"The sum is {4 * i}."} for i in range(120)]
    labelled = [{"text": f"The sum of {i} and {3 * i} is {4 * i}.", "label": "ab"[i % 2]} for i in range(120)]
    for name, lines in (("asked", asked), ("labelled", labelled)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return OwnData(instructions=tmp_path / "asked.jsonl", labelled=tmp_path / "labelled.jsonl")


@pytest.mark.flows
def test_a_decoder_goes_through_every_stage_of_the_chain(rows: OwnData, tmp_path: Path) -> None:
    """What other programs have no form for is told in the table of forms, and nothing else is missing."""
    model = f"pretrain.model={HouseDecoderConfig.__name__}"
    settings = read_settings({"GPTWORKS_HOME": str(tmp_path / "var"), "OLLAMA_HOST": "127.0.0.1:9"})
    chain = Chain(configuration("tiny", [model, *SMALL], rows), settings, None, progress_bar)
    assert chain.left_out == {}
    for name in ("finetune-classifier", "compress", "evaluate"):
        assert chain.ensure(name) is not None
    base = chain.outcomes["pretrain"]
    assert isinstance(base.result, PretrainResult)
    assert isinstance(checkpoint.load(base.path / base.result.checkpoint).spec.model, HouseDecoderConfig)
    compressed = chain.outcomes["compress"].result
    assert isinstance(compressed, CompressResult)
    assert all(row.equal for row in compressed.equivalence if row.must_equal and not row.reason)
    reasons = {row.form: row.reason for row in compressed.equivalence if row.reason}
    assert reasons.keys() == {"exported for transformers, imported", "exported as GGUF F32, llama.cpp's graph"}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (
            HouseEncoderConfig,
            "NextToken expects a causal network, got HouseEncoder, whose positions see the words after",
        ),
        (HouseSeq2SeqConfig, "NextToken expects a causal network, got HouseSeq2Seq"),
    ],
)
def test_what_the_chain_cannot_pretrain_yet_is_refused_before_anything_is_made(
    rows: OwnData, kind: type[HouseEncoderConfig], sentence: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        configuration("tiny", [f"pretrain.model={kind.__name__}", *SMALL], rows)
    assert sentence in str(refused.value)


def test_a_network_of_images_is_not_a_model_of_a_chain_of_texts(rows: OwnData) -> None:
    with pytest.raises(ConfigError, match=r"unknown WordNetworkConfig kind 'HouseViewerConfig'.*known: .*GPTConfig"):
        configuration("tiny", ["pretrain.model=HouseViewerConfig"], rows)


def test_a_decoder_is_planned_like_any(rows: OwnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTWORKS_HOME", str(tmp_path / "var"))
    config = configuration("tiny", [f"pretrain.model={HouseDecoderConfig.__name__}", *SMALL], rows)
    lines = {line.stage: line for line in plan(config, "pipeline", data_dir=None)}
    assert {line.state for line in lines.values()} == {"will run"}
    assert "TFLOP" in lines["pretrain"].cost
