"""What stages hand on: through the manifest and back, from the form of earlier versions, or refused with a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.chain.engine import read_result
from flows.stage_flows import FLOWS, with_deployments
from flows.stages.every import STAGES
from flows.stages.prepare.result import PartFacts, PrepareResult
from flows.store import Entry
from gptcore.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
FORM = {"form": "cached, token by token", "must_equal": True, "equal": True, "n": 9, "reason": ""} | dict.fromkeys(
    ("largest_difference", "scale", "same_top", "kl_divergence"), 0.5
)
ROW = dict.fromkeys(("bytes", "memory_bytes", "n_parameters"), 7) | dict.fromkeys(
    ("zeros", "loss", "perplexity", "kl", "kl_p99", "same_top", "increase"), 0.5
)
SPEEDS = dict.fromkeys(("tokens_per_second", "tokens_per_second_spread", "tokens_per_second_32"), 2.5)
CLASSES = {"labels": ["a", "b"], "confusion": [[3, 0], [1, 2]]}
EARLIER: dict[str, dict[str, Any]] = {
    "prepare-data": {
        "parts": ["classify", "instruct"],
        "classify": {"labels": ["a", "b"], "leaks": 1, "rows": {"train": 5, "val": 1, "test": 1}, "train_chars": 90},
        "instruct": {"leaks": 0, "rows": {"train": 4, "val": 1, "test": 1}, "train_chars": 80},
        "tokenizer": "bpe-512",
        "tokenizer_digest": "0" * 64,
        "vocab_size": 512,
        "tokens": {"train": 100, "val": 10},
    },
    "pretrain": {"checkpoint": "run/checkpoint", "model": {"kind": "GPTConfig", "n_parameters": 9}, "samples": []},
    "finetune-classifier": {"checkpoint": "run/checkpoint", **CLASSES},
    "finetune-instruct": {"checkpoint": "run/checkpoint", "responses": "responses.jsonl"},
    "lora": {
        "tasks": {
            "classify": {"checkpoint": "c", "adapter": "a", "trained_share": 0.1, "metrics": {"x": 1.0}, **CLASSES},
            "instruct": {"checkpoint": "c", "adapter": "a", "trained_share": 0.1, "metrics": {}},
        },
        "responses": None,
        "equivalence": [FORM],
    },
    "compress": {
        "parent": "finetune-instruct",
        "measured_on": "the answers",
        "variants": [
            {"name": "fp32", **ROW, **SPEEDS, "joules_per_token": None, "gate": None, "passed": True},
            {"name": "int8", **ROW, **SPEEDS, "checkpoint": "language/int8", "gate": 0.1, "passed": False},
        ],
        "equivalence": [FORM],
    },
    "evaluate": {"judge": {"state": "skipped", "reason": "no Ollama"}},
}
"""What the manifests of the first stores have, which name no kinds."""


def entry(stage: str, result: dict[str, Any]) -> Entry:
    """A finished output."""
    return Entry(Path("store") / stage, stage, "0" * 16, "0" * 64, result, {}, 1.0, None)


@pytest.mark.parametrize("name", STAGES)
def test_a_store_made_before_is_taken_over(name: str) -> None:
    """The kind: an output whose key is still right must not crash those that read it."""
    stage = STAGES[name]
    result = read_result(stage, entry(name, EARLIER[name] | {"metrics": {"perf/seconds": 1.5}}))
    assert type(result) is stage.result
    assert result.metrics == {"perf/seconds": 1.5}
    again = read_result(stage, entry(name, result.to_dict()))
    assert again == result


def test_the_parts_of_an_earlier_preparation_are_found() -> None:
    result = read_result(STAGES["prepare-data"], entry("prepare-data", EARLIER["prepare-data"] | {"metrics": {}}))
    assert isinstance(result, PrepareResult)
    assert list(result.parts) == ["classify", "instruct"]
    rows = {"train": 5, "val": 1, "test": 1}
    assert result.part("classify") == PartFacts(rows=rows, train_chars=90, leaks=1, labels=("a", "b"))


@pytest.mark.parametrize("name", STAGES)
def test_an_output_of_an_unknown_form_is_refused_with_the_command_that_makes_it_anew(name: str) -> None:
    for wrong in ({"metrics": {}, "novelty": 1}, {}):
        with pytest.raises(DataError, match=rf"got one of another version.*gptworks {name} --force"):
            read_result(STAGES[name], entry(name, EARLIER[name] | {"metrics": {}} | wrong if wrong else wrong))


def test_the_deployments_of_the_stages_are_written_from_their_descriptions() -> None:
    """`python -m flows.stage_flows` writes them anew."""
    text = (ROOT / "prefect.yaml").read_text()
    assert with_deployments(text) == text
    described = {each["entrypoint"]: each for each in yaml.safe_load(text)["deployments"]}
    for stage in STAGES.values():
        deployment = described[f"flows.stage_flows.{stage.name.replace('-', '_')}"]
        assert deployment["description"] == stage.sentence == FLOWS[stage.name].description
