"""The plan of a run: which stages exist, which would run, which are left out, and about what they cost."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flows.chain.engine import Chain
from flows.chain.plan import duration, plan
from flows.progress import progress_bar
from flows.recipes.resolve import resolve, with_own_data
from flows.settings import read_settings
from flows.stages.every import STAGES
from flows.stages.pipeline import Pipeline
from flows.store import StageStore
from gptcore.errors import CheckpointError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTWORKS_HOME", str(tmp_path / "var"))
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    return tmp_path / "var"


def labelled_only(folder: Path) -> Pipeline:
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"text": "good", "label": "a"}) + "\n")
    return with_own_data(resolve("tiny"), rows={"classify": rows})


def test_before_anything_is_made_everything_will_run_and_nothing_is_created(home: Path) -> None:
    lines = plan(resolve("tiny"), "pipeline", data_dir=None)
    assert [line.stage for line in lines] == list(STAGES)
    assert {line.state for line in lines} == {"will run"}
    costs = {line.stage: line.cost for line in lines}
    assert costs.pop("prepare-data") == "about 0.5 M characters"
    assert re.fullmatch(r"about \d answers to score, and up to \d\d questions to the judge, .*", costs.pop("evaluate"))
    for stage, cost in costs.items():
        assert re.fullmatch(r"about \d\.\d\d M tokens, \d\.\d TFLOP", cost), stage
    assert all(0 < line.seconds < 60 for line in lines)
    assert not home.exists()


def test_a_stage_plans_itself_and_what_it_needs(home: Path) -> None:
    lines = plan(resolve("tiny"), "finetune-classifier", data_dir=None)
    assert [line.stage for line in lines] == ["prepare-data", "pretrain", "finetune-classifier"]


def test_stages_without_rows_are_left_out(home: Path, tmp_path: Path) -> None:
    states = {line.stage: line.state for line in plan(labelled_only(tmp_path), "pipeline", data_dir=None)}
    reason = "left out: the data has no instruction rows (--instructions)"
    left_out = {stage for stage, state in states.items() if state == reason}
    assert left_out == {"finetune-instruct", "evaluate"}


def test_what_exists_what_was_begun_and_what_training_costs_is_told(home: Path, tmp_path: Path) -> None:
    config = labelled_only(tmp_path)
    chain = Chain(config, read_settings(), None, progress_bar)
    store = StageStore(home / "store")
    facts = {
        "parts": ["classify"],  # as earlier versions wrote it
        "classify": {"rows": {"train": 5_000, "val": 600, "test": 600}, "train_chars": 5_000 * 38},
        "tokenizer": "bpe-512",
        "tokenizer_digest": "0" * 64,
        "metrics": {},
        "tokens": {"train": 960_000, "val": 1_000},
        "vocab_size": 512,
    }
    with store.produce("prepare-data", chain.key(STAGES["prepare-data"])) as work:
        work.commit(facts)
    with store.produce("pretrain", chain.key(STAGES["pretrain"])):
        pass  # left without a commit, as by an interruption
    lines = {line.stage: line for line in plan(config, "pipeline", data_dir=None)}
    assert lines["prepare-data"].state == "exists"
    assert lines["pretrain"].state == "resumes where it stopped"
    assert lines["finetune-classifier"].state == "will run"
    # 6 steps of 4 samples of 96 tokens
    assert lines["pretrain"].cost == "0.00 M tokens, 0.0 TFLOP"
    assert lines["prepare-data"].seconds == 0
    whole = resolve("tiny", overrides=["pretrain.train.steps=none", "pretrain.train.epochs=3"])
    full = with_own_data(whole, rows={"classify": tmp_path / "rows.jsonl"})
    costs = {line.stage: line.cost for line in plan(full, "pretrain", data_dir=None)}
    # the data did not change: 3 epochs of 960,000 tokens
    assert costs["pretrain"].startswith("2.88 M tokens, ")
    twice = resolve("tiny", overrides=["classify.train.steps=none", "classify.train.epochs=2"])
    lines_of = plan(
        with_own_data(twice, rows={"classify": tmp_path / "rows.jsonl"}), "finetune-classifier", data_dir=None
    )
    # 2 epochs of 5,000 rows of 38 characters, 20 tokens
    assert lines_of[-1].cost.startswith("0.20 M tokens, ")


def test_a_time_is_told_no_more_exactly_than_it_is_known() -> None:
    assert [duration(seconds) for seconds in (0.2, 12.4, 89.0, 91.0, 3_700.0)] == [
        "1 s",
        "12 s",
        "89 s",
        "2 min",
        "62 min",
    ]


def test_the_cost_with_other_starting_weights_is_that_of_their_sizes(home: Path, tmp_path: Path) -> None:
    def cost(init: str) -> str:
        config = resolve("tiny", overrides=[f"pretrain.init={init}", "prepare.tokenizer=gpt2"])
        return {line.stage: line.cost for line in plan(config, "pretrain", data_dir=None)}["pretrain"]

    def operations(text: str) -> float:
        found = re.search(r"([\d.]+) TFLOP", text)
        assert found, text
        return float(found[1])

    small, medium = (operations(cost(f"hf:openai-community/{name}")) for name in ("gpt2", "gpt2-medium"))
    # 24 samples of 1,024 tokens, 6 operations for each of 124 and of 354 million parameters that multiply
    assert small == pytest.approx(6 * 24 * 1024 * 123.5e6 / 1e12, abs=0.1)
    assert medium == pytest.approx(6 * 24 * 1024 * 353.5e6 / 1e12, abs=0.1)
    assert cost("hf:somebody/else@abc").startswith("not known for hf:somebody/else@abc")
    (tmp_path / "weights").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        cost(str(tmp_path / "weights"))
