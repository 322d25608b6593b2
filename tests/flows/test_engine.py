"""The engine against a real MLflow store: what is left out, reused or refused, and two processes on one key."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from eval.errors import JudgeUnavailable
from flows.chain.engine import Chain
from flows.progress import progress_bar
from flows.recipes.resolve import resolve, with_own_data
from flows.settings import Settings, read_settings
from flows.stages.compress.body import QualityGateError
from flows.stages.every import STAGES
from flows.stages.outcome import Outcome
from flows.stages.pipeline import Pipeline
from flows.tracking.runs import connect
from gptcore import checkpoint
from gptcore.data.ledger import Ledger
from gptcore.errors import DataError
from gptcore.export.vocabulary import merges_of, vocabulary_of
from gptcore.tokenizer import train_bpe

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

pytestmark = [pytest.mark.flows, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def settings(tracked_home: Path) -> Settings:
    return read_settings({"GPTWORKS_HOME": str(tracked_home), "OLLAMA_HOST": "127.0.0.1:9"})


@pytest.fixture(scope="module")
def client(settings: Settings) -> MlflowClient:
    return connect(settings)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The tiny chain on own instruction rows; there are no labelled rows."""
    path = tmp_path_factory.mktemp("rows") / "instructions.jsonl"
    rows = [
        {"instruction": f"Add {i} and {3 * i}.", "input": "", "output": f"The sum of {i} and {3 * i} is {4 * i}."}
        for i in range(150)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return with_own_data(resolve("tiny"), rows={"instruct": path})


@pytest.fixture(scope="module")
def whole(config: Pipeline, settings: Settings, client: MlflowClient) -> dict[str, Outcome | None]:
    """Every stage of the chain."""
    chain = Chain(config, settings, None, progress_bar)
    return {name: chain.ensure(name) for name in STAGES}


def made(whole: dict[str, Outcome | None], stage: str) -> Outcome:
    outcome = whole[stage]
    assert outcome is not None
    return outcome


def runs(client: MlflowClient, stage: str, key: str) -> list[Run]:
    experiment = client.get_experiment_by_name(f"gptworks/{stage}")
    if experiment is None:
        return []
    return list(client.search_runs([experiment.experiment_id], filter_string=f"tags.`gptworks.key` = '{key}'"))


def test_stages_whose_rows_are_not_given_are_left_out(whole: dict[str, Outcome | None], client: MlflowClient) -> None:
    assert {name for name, outcome in whole.items() if outcome is None} == {"finetune-classifier"}
    assert client.get_experiment_by_name("gptworks/finetune-classifier") is None
    assert set(made(whole, "lora").result.tasks) == {"instruct"}
    assert made(whole, "compress").result.parent == "finetune-instruct"


def test_a_corpus_alone_gives_no_stage_that_needs_rows(config: Pipeline, settings: Settings, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a line of text\n" * 99)
    alone = Chain(with_own_data(resolve("tiny"), corpus=[text]), settings, None, progress_bar)
    assert [name for name in STAGES if name not in alone.left_out] == ["prepare-data", "pretrain", "compress"]
    assert alone.left_out["lora"] == (
        "the data has no labelled rows (--labelled) and no instruction rows (--instructions)"
    )


def test_each_run_tells_its_inputs_figures_and_ancestors(
    whole: dict[str, Outcome | None], client: MlflowClient
) -> None:
    outcome, prepared = made(whole, "finetune-instruct"), made(whole, "prepare-data")
    (run,) = runs(client, "finetune-instruct", outcome.key)
    assert (run.info.run_id, run.info.status) == (outcome.run_id, "FINISHED")
    tags = run.data.tags
    assert tags["gptworks.data"] == prepared.key
    assert tags["gptworks.tokenizer"] == prepared.result.tokenizer_digest
    assert tags["gptworks.parent_checkpoint"] == f"pretrain/{made(whole, 'pretrain').key}"
    assert tags["gptworks.run.pretrain"] == made(whole, "pretrain").run_id
    assert {each.dataset.name for each in run.inputs.dataset_inputs} == {"prepare-data", "pretrain"}
    assert run.data.params["instruct.train.steps"] == "6"
    note = tags["mlflow.note.content"]
    assert str(outcome.path) in note
    assert f"[pretrain](#/runs/{made(whole, 'pretrain').run_id})" in note
    assert "| val/loss |" in note
    assert {"val/loss", "val/perplexity", "perf/seconds", "train/loss"} <= set(run.data.metrics)
    artifacts = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert {"environment.txt", "figures", "responses.json", "run"} <= artifacts
    held = {Path(each.path).name for each in client.list_artifacts(run.info.run_id, "run/checkpoint")}
    assert "model.safetensors" in held


def test_what_exists_is_not_made_again_and_what_is_forced_is(
    whole: dict[str, Outcome | None], config: Pipeline, settings: Settings, client: MlflowClient
) -> None:
    chain = Chain(config, settings, None, progress_bar)
    for name, before in whole.items():
        after = chain.ensure(name)
        assert (after is None) == (before is None)
        if before is not None and after is not None:
            assert (after.key, after.path, after.run_id) == (before.key, before.path, before.run_id)
            assert after.cached
            assert after.seconds == 0.0
    forced = Chain(config, settings, None, progress_bar).ensure("evaluate", force=True)
    assert forced is not None
    assert not forced.cached
    assert forced.key == made(whole, "evaluate").key
    assert forced.run_id != made(whole, "evaluate").run_id
    assert scores(forced) == scores(made(whole, "evaluate"))


def scores(outcome: Outcome) -> dict[str, float]:
    """The metrics without those of time and memory."""
    return {name: value for name, value in outcome.result.metrics.items() if not name.startswith("perf/")}


def test_every_run_has_its_time_and_memory_the_same_in_result_and_tracking(
    whole: dict[str, Outcome | None], client: MlflowClient
) -> None:
    for name, outcome in whole.items():
        if outcome is not None and outcome.run_id is not None:
            tracked, kept = client.get_run(outcome.run_id).data.metrics, outcome.result.metrics
            assert tracked["perf/seconds"] == kept["perf/seconds"] > 0, name
            assert tracked["perf/peak_rss_mb"] == kept["perf/peak_rss_mb"] > 10, name


def test_the_judge_is_no_data_set(whole: dict[str, Outcome | None], client: MlflowClient) -> None:
    run = client.get_run(made(whole, "evaluate").run_id)
    assert run.data.tags["gptworks.input.judge"] == "skipped"
    assert {each.dataset.name for each in run.inputs.dataset_inputs} == {"finetune-instruct", "lora"}


def test_answered_and_unanswered_prompts_are_in_the_ledger(whole: dict[str, Outcome | None]) -> None:
    ledger = Ledger.load(made(whole, "finetune-instruct").path / "answers/ledger.json")
    there = made(whole, "prepare-data").result.parts["instruct"].rows["test"]
    assert ledger.total("in", stage="answer", split="test") == there
    assert ledger.total("kept", stage="answer") == 4
    assert ledger.total("dropped", stage="answer", reason="beyond instruct.max_responses") == there - 4


def test_what_a_later_stage_would_refuse_is_refused_at_once(config: Pipeline, settings: Settings) -> None:
    required = replace(config, evaluate=replace(config.evaluate, judge="required"))
    with pytest.raises(JudgeUnavailable, match="no Ollama at"):
        Chain(required, settings, None, progress_bar).check()
    missing = replace(config, pretrain=replace(config.pretrain, init="no/such/folder"))
    with pytest.raises(DataError, match="--init no/such/folder: no such folder"):
        Chain(missing, settings, None, progress_bar).check()
    Chain(config, settings, None, progress_bar).check()


def test_without_a_judge_the_scores_say_so_in_result_and_tracked_run(
    whole: dict[str, Outcome | None], settings: Settings, client: MlflowClient
) -> None:
    outcome = made(whole, "evaluate")
    assert outcome.result.judge["state"] == "skipped"
    assert not any(name.startswith("judge/") for name in outcome.result.metrics)
    assert outcome.run_id is not None
    tag = client.get_run(outcome.run_id).data.tags["gptworks.judge"]
    assert tag.startswith(f"skipped no Ollama at {settings.ollama_host}")


def test_a_gate_that_is_not_passed_fails_the_stage_and_its_run_with_the_table(
    whole: dict[str, Outcome | None], config: Pipeline, settings: Settings, client: MlflowClient
) -> None:
    strict = replace(config, compress=replace(config.compress, max_increase_int4=-1.0))
    chain = Chain(strict, settings, None, progress_bar)
    with pytest.raises(QualityGateError) as failed:
        chain.ensure("compress")
    told = str(failed.value)
    assert told.startswith("int4: the perplexity increased by more than the gate allows\nmethod ")
    assert [line.split()[0] for line in told.splitlines()[2:7]] == ["fp32", "int8", "int4", "gptq", "hidden+tune"]
    assert told.endswith("lower compress.group_size, or leave the method out of compress.methods")
    key = chain.key(STAGES["compress"])
    assert chain.store.find("compress", key) is None
    (run,) = runs(client, "compress", key)
    assert run.info.status == "FAILED"
    assert run.data.tags["gptworks.failure"].startswith("QualityGateError: int4: the perplexity increased")
    assert "compression.json" in {each.path for each in client.list_artifacts(run.info.run_id)}


def test_any_fine_tuning_starts_from_what_transformers_wrote(
    settings: Settings, client: MlflowClient, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = train_bpe((f"a row about {i} and {3 * i}" for i in range(99)), vocab_size=300)
    vocabulary, merges = vocabulary_of(tokenizer), [tuple(merge.split()) for merge in merges_of(tokenizer)]
    folder, rows = tmp_path / "theirs", tmp_path / "rows.jsonl"
    transformers.GPT2Tokenizer(vocab=vocabulary, merges=merges).save_pretrained(folder)
    sizes = transformers.GPT2Config(vocab_size=len(vocabulary), n_positions=48, n_embd=16, n_layer=2, n_head=2)
    theirs = transformers.GPT2LMHeadModel(sizes)
    theirs.save_pretrained(folder)
    lines = [{"text": f"a row about {i} and {i * 7919}", "label": "ab"[i % 2]} for i in range(120)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    overrides = [f"pretrain.init={folder}", "pretrain.train.steps=0", "prepare.near_duplicates=none"]
    chain = Chain(
        with_own_data(resolve("tiny", overrides=overrides), rows={"classify": rows}), settings, None, progress_bar
    )

    base = chain.ensure("pretrain")
    assert base is not None
    assert base.run_id is not None
    loaded = checkpoint.load(base.path / base.result.checkpoint)
    assert loaded.tokenizer.digest == tokenizer.digest
    assert loaded.model.config.context_length == 48
    weights = theirs.state_dict()["transformer.wpe.weight"]
    assert torch.equal(loaded.model.get_parameter("position_embedding.weight"), weights)
    assert client.get_run(base.run_id).data.tags["gptworks.parent_checkpoint"] == str(folder)
    for stage in ("finetune-classifier", "lora"):
        tuned = chain.ensure(stage)
        assert tuned is not None
        assert chain.outcomes["pretrain"].key == base.key


OTHER_PROCESS = """
import json, sys
from pathlib import Path
from flows.chain.engine import Chain
from flows.progress import progress_bar
from flows.stages.pipeline import Pipeline
from flows.settings import read_settings
config = Pipeline.from_dict(json.loads(sys.argv[1]))
outcome = Chain(config, read_settings(), None, progress_bar).ensure("pretrain")
print(json.dumps([outcome.cached, str(outcome.path), outcome.run_id]))
"""


def test_two_processes_on_one_key_train_once(
    whole: dict[str, Outcome | None], config: Pipeline, settings: Settings, client: MlflowClient, tmp_path: Path
) -> None:
    longer = replace(config, pretrain=replace(config.pretrain, train=replace(config.pretrain.train, steps=50)))
    chain = Chain(longer, settings, None, progress_bar)
    key = chain.key(STAGES["pretrain"])
    work = chain.store.folder("pretrain", key).with_name(f"{key}.work")
    environment = {"PYTHONPATH": str(ROOT), "GPTWORKS_HOME": str(settings.home), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "said").open("w") as said:
        other = subprocess.Popen(
            [sys.executable, "-c", OTHER_PROCESS, json.dumps(longer.to_dict())],
            stdout=subprocess.PIPE, stderr=said, env=environment, text=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while not work.exists() and other.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            outcome = chain.ensure("pretrain")
            out, _ = other.communicate(timeout=120)
        finally:
            other.kill()
            other.wait()
    assert other.returncode == 0, (tmp_path / "said").read_text()
    assert outcome is not None
    assert outcome.cached
    assert json.loads(out) == [False, str(outcome.path), outcome.run_id]
    (run,) = runs(client, "pretrain", key)
    assert (run.info.run_id, run.info.status) == (outcome.run_id, "FINISHED")
