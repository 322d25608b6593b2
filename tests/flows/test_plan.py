"""The plan of a run: which stages exist, which would run, which are left out, and about what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.engine import Chain
from flows.plan import plan
from flows.progress import progress_bar
from flows.recipes import Pipeline, resolve, with_own_data
from flows.settings import read_settings
from flows.stages.registry import STAGES
from flows.store import StageStore


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTWORKS_HOME", str(tmp_path / "var"))
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    return tmp_path / "var"


def labelled_only(folder: Path) -> Pipeline:
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"text": "good", "label": "a"}) + "\n")
    return with_own_data(resolve("tiny"), labelled=rows)


def test_before_anything_is_made_everything_will_run_and_nothing_is_created(home: Path) -> None:
    lines = plan(resolve("tiny"), "pipeline", data_dir=None)
    assert [line.stage for line in lines] == list(STAGES)
    assert {line.state for line in lines} == {"will run"}
    assert {line.cost for line in lines} == {"", "known once the data is prepared"}
    assert not home.exists()


def test_a_stage_plans_itself_and_what_it_needs(home: Path) -> None:
    lines = plan(resolve("tiny"), "finetune-classifier", data_dir=None)
    assert [line.stage for line in lines] == ["prepare-data", "pretrain", "finetune-classifier"]


def test_stages_without_rows_are_left_out(home: Path, tmp_path: Path) -> None:
    states = {line.stage: line.state for line in plan(labelled_only(tmp_path), "pipeline", data_dir=None)}
    left_out = {stage for stage, state in states.items() if state == "left out: the data has no rows for it"}
    assert left_out == {"finetune-instruct", "evaluate"}


def test_what_exists_what_was_begun_and_what_training_costs_is_told(home: Path, tmp_path: Path) -> None:
    config = labelled_only(tmp_path)
    chain = Chain(config, read_settings(), None, progress_bar)
    store = StageStore(home / "store")
    facts = {
        "parts": ["classify"],
        "classify": {"rows": {"train": 5_000}},
        "tokens": {"train": 960_000, "val": 1_000},
        "vocab_size": 512,
    }
    with store.produce("prepare-data", chain.key(STAGES["prepare-data"])) as work:
        work.commit(facts)
    with store.produce("pretrain", chain.key(STAGES["pretrain"])):
        pass  # left without a commit, as by an interruption
    lines = {line.stage: line for line in plan(config, "pipeline", data_dir=None)}
    assert lines["prepare-data"].state == "exists"
    assert lines["pretrain"].state == "goes on where it stopped"
    assert lines["finetune-classifier"].state == "will run"
    # 6 steps of 4 samples of 96 tokens
    assert lines["pretrain"].cost.startswith("up to 0.00 M tokens, 0.0 TFLOP, ")
    whole = resolve("tiny", overrides=["pretrain.train.steps=none", "pretrain.train.epochs=3"])
    full = with_own_data(whole, labelled=tmp_path / "rows.jsonl")
    costs = {line.stage: line.cost for line in plan(full, "pretrain", data_dir=None)}
    # the data did not change: 3 epochs of 960,000 tokens
    assert costs["pretrain"].startswith("up to 2.88 M tokens, ")
    assert costs["pretrain"].endswith(" min")
