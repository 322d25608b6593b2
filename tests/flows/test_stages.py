"""Stages by themselves: keys, preparation of small files, the baseline, and what came of the judge."""

from __future__ import annotations

import json
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from eval.errors import JudgeModelMissing, JudgeUnavailable
from eval.testing.fake_ollama import FakeOllama
from flows.chain.engine import Chain
from flows.orchestrator.flow_run import check_worker_home
from flows.progress import progress_bar
from flows.recipes.resolve import resolve, with_own_data
from flows.settings import read_settings
from flows.sources.base import Places
from flows.stages.baseline import tfidf_accuracy
from flows.stages.context import Context, Inputs
from flows.stages.evaluate import body as evaluation
from flows.stages.evaluate.recipe import EvaluateStage
from flows.stages.every import STAGES
from flows.stages.pipeline import Pipeline
from flows.stages.prepare import body as prepare
from flows.stages.prepare.result import PartFacts, PrepareResult
from flows.tracking.journal import new_run_id, open_journal
from flows.tracking.logger import MlflowLogger
from flows.tracking.shipper import Shipper
from gptcore.data import batches, open_shards, read_manifest
from gptcore.data.ledger import Ledger
from gptcore.errors import ConfigError, DataError
from gptcore.files import read_json_lines
from gptcore.models import GPTConfig
from gptcore.models.gpt.hf import to_hf_config
from gptcore.tokenizer import END_OF_TEXT, Tokenizer
from gptcore.train import Progress

NOTHING = Inputs({}, {})
"""Data preparation needs no other stage."""
WORDS = ("red", "green", "blue", "round", "flat", "heavy", "light", "old", "new", "small", "large", "warm", "cold")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 labelled rows, three of them twice and one of them empty."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    made = [
        {"text": f"number {i}: a {WORDS[i % 13]} thing, {WORDS[i * 7 % 13]}, {hex(i * 7919)}", "label": "ab"[i % 2]}
        for i in range(116)
    ]
    made += [*made[:3], {"text": "  ", "label": "a"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


@pytest.fixture
def free_address() -> Iterator[str]:
    """An address at which nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}"


def context(folder: Path, told: list[Progress]) -> Context:
    """A context for preparation, which logs nothing: its tracked run leads nowhere."""
    nowhere = read_settings({"GPTWORKS_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    journal = open_journal(nowhere.spool, stage="prepare-data", key="k", run_id=new_run_id())
    log = MlflowLogger(journal, Shipper(nowhere), ui="")
    return Context(folder, Places(None, folder / "cache"), log, told.append, 1, "")


def own(rows: Path, *overrides: str) -> Pipeline:
    return with_own_data(
        resolve("tiny", overrides=["prepare.near_duplicates=none", *overrides]), rows={"classify": rows}
    )


def chain(config: Pipeline, home: Path, host: str = "127.0.0.1:9") -> Chain:
    settings = read_settings({"GPTWORKS_HOME": str(home), "OLLAMA_HOST": host})
    return Chain(config, settings, None, progress_bar)


def keys(config: Pipeline, home: Path) -> dict[str, str]:
    made = chain(config, home)
    return {name: made.key(stage) for name, stage in STAGES.items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_preparation_writes_tokenizer_shards_rows_and_a_ledger_that_adds_up(rows: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    facts = prepare.run(own(rows), NOTHING, context(tmp_path, told))
    assert list(facts.parts) == ["classify"]
    assert facts.parts["classify"].labels == ("a", "b")
    assert sum(facts.parts["classify"].rows.values()) == 116
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    assert (tokenizer.vocab_size, tokenizer.digest) == (facts.vocab_size, facts.tokenizer_digest)
    for split in ("train", "val"):
        manifest = read_manifest(tmp_path / "corpus" / split)
        assert manifest.n_tokens == facts.tokens[split] > 0
        assert manifest.tokenizer_digest == tokenizer.digest
    ledger = Ledger.load(tmp_path / "ledger.json")
    ledger.check()
    assert ledger.total("in", stage="classify: clean") == 120
    assert ledger.total("dropped", stage="classify: clean") == 4
    written = [
        json.loads(line)["text"]
        for split in ("train", "val", "test")
        for line in (tmp_path / f"classify/{split}.jsonl").read_text().splitlines()
    ]
    assert len(set(written)) == len(written) == 116
    assert not (tmp_path / "texts").exists()
    assert told[-1].step == told[-1].n_steps


@pytest.mark.usefixtures("gpt2_cache")
def test_rows_without_a_corpus_are_one_but_for_those_of_the_tests(rows: Path, tmp_path: Path) -> None:
    """What a model is asked in the end must not stand in the texts that its base was trained on."""
    prepare.run(own(rows, "prepare.tokenizer=gpt2"), NOTHING, context(tmp_path, []))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    texts: dict[str, list[str]] = {}
    for split in ("train", "val"):
        (array,) = open_shards(tmp_path / "corpus" / split).arrays
        texts[split] = tokenizer.decode(array.tolist()).split(END_OF_TEXT)[:-1]
    asked = [row["text"] for row in read_json_lines(tmp_path / "classify/test.jsonl")]
    known = [row["text"] for name in ("train", "val") for row in read_json_lines(tmp_path / f"classify/{name}.jsonl")]
    assert sorted(texts["train"] + texts["val"]) == sorted(known)
    assert set(known).isdisjoint(asked)
    assert 5 < len(texts["val"]) < len(texts["train"]) / 3


def test_one_file_of_text_is_enough_for_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a passage goes is decided by its path
    text = Path("novel.txt")
    text.write_text("\n".join(f"{WORDS[i % 13]} {WORDS[i * 5 % 11]} {i} {hex(i * 7919)}" for i in range(9_000)))
    facts = prepare.run(with_own_data(resolve("tiny"), corpus=[text]), NOTHING, context(tmp_path, []))
    assert facts.parts == {}
    assert 0.03 < facts.tokens["val"] / facts.tokens["train"] < 0.3


@pytest.mark.parametrize(
    ("n", "overrides", "message"),
    [
        (3, (), "no test row is left for classify: of 3 that were read these were dropped: none; add rows, or"),
        (60, ("prepare.near_duplicates=0.01",), r"of 60 that were read these were dropped: near duplicate 5\d; add"),
    ],
)
def test_too_few_rows_are_told_with_what_became_of_them(
    tmp_path: Path, n: int, overrides: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [{"text": f"one row like any other, number {i} of these", "label": "ab"[i % 2]} for i in range(n)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = with_own_data(resolve("tiny", overrides=overrides), rows={"classify": path})
    with pytest.raises(DataError, match=message):
        prepare.run(config, NOTHING, context(tmp_path, []))


def texts_of(path: Path, n: int) -> Path:
    lines = [{"text": " ".join(f"{WORDS[(i * j) % 13]} {hex(i * 7919 + j)}" for j in range(1, 20))} for i in range(n)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_tokenizer_of_a_large_corpus_learns_from_a_part_of_it(tmp_path: Path) -> None:
    corpus = texts_of(tmp_path / "texts.jsonl", 400)
    limit = corpus.stat().st_size // 4
    config = with_own_data(resolve("tiny", overrides=[f"prepare.tokenizer_bytes={limit}"]), corpus=[corpus])
    prepare.run(config, NOTHING, context(tmp_path, []))
    ledger = Ledger.load(tmp_path / "ledger.json")
    there = ledger.total("kept", stage="corpus: split", split="train")
    assert ledger.total("in", stage="tokenizer") == there
    assert 0.15 < ledger.total("kept", stage="tokenizer") / there < 0.45
    assert ledger.total("dropped", reason="beyond its sample of the corpus") > 0


def test_a_larger_corpus_needs_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_ITEMS", 256)
    peaks = []
    for n in (500, 2_000):
        (folder := tmp_path / str(n)).mkdir()
        config = with_own_data(resolve("tiny"), corpus=[texts_of(tmp_path / f"{n}.jsonl", n)])
        tracemalloc.start()
        prepare.run(config, NOTHING, context(folder, []))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 200_000


def test_preparation_is_the_same_each_time(rows: Path, tmp_path: Path) -> None:
    results = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        prepare.run(own(rows), NOTHING, context(tmp_path / name, []))
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        results.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert results[0] == results[1]


def test_a_part_that_the_data_does_not_have_is_named_beside_those_it_has() -> None:
    facts = PartFacts(rows={"train": 2}, train_chars=9)
    made = PrepareResult(
        tokenizer="t", tokenizer_digest="0", vocab_size=300, tokens={}, parts={"classify": facts}, metrics={}
    )
    assert made.part("classify") is facts
    with pytest.raises(
        ConfigError, match=r"the data has no rows for instruct \(it has classify\); give some by --instructions"
    ):
        made.part("instruct")


def test_a_key_changes_with_whatever_decides_the_output_and_with_nothing_else(rows: Path, tmp_path: Path) -> None:
    before = keys(own(rows), tmp_path)
    assert keys(own(rows), tmp_path / "elsewhere") == before
    classifier = own(rows, "classify.train.epochs=9")
    assert changed(before, keys(classifier, tmp_path)) == {
        "finetune-classifier",
        "lora",
        "compress",
        "evaluate",
    }
    assert changed(before, keys(own(rows, "compress.group_size=16"), tmp_path)) == {"compress"}
    assert changed(before, keys(own(rows, "seed=2"), tmp_path)) == set(STAGES)
    rest = set(STAGES) - {"prepare-data"}
    assert changed(before, keys(own(rows, "pretrain.train.epochs=9"), tmp_path)) == rest
    copy = tmp_path / "rows.jsonl"
    copy.write_text(rows.read_text().replace("number 7:", "number seven:"))
    assert changed(before, keys(own(copy), tmp_path)) == set(STAGES)


def test_other_starting_weights_in_the_same_folder_are_another_key(rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    sizes = to_hf_config(GPTConfig(context_length=64, width=32, n_layers=2, n_heads=2), end_of_text=0)
    (folder / "config.json").write_text(json.dumps(sizes))
    (folder / "model.safetensors").write_bytes(b"one")
    whole = own(rows, f"pretrain.init={folder}")  # their tokenizer prepares the data, too
    apart = own(rows, f"pretrain.init={folder}", "prepare.tokenizer=gpt2")
    before = [keys(config, tmp_path) for config in (whole, apart)]
    (folder / "model.safetensors").write_bytes(b"two")
    assert changed(before[0], keys(whole, tmp_path)) == set(STAGES)
    assert changed(before[1], keys(apart, tmp_path)) == set(STAGES) - {"prepare-data"}


def test_the_baseline_tells_apart_what_words_tell_apart(tmp_path: Path) -> None:
    for split in ("train", "test"):
        lines = [{"text": f"{WORDS[i % 2]} thing {i}", "label": "ab"[i % 2]} for i in range(20)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tfidf_accuracy(tmp_path / "train.jsonl", tmp_path / "test.jsonl") == 1.0
    swapped = [{"text": f"{WORDS[i % 2]} thing {i}", "label": "ba"[i % 2]} for i in range(20)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in swapped))
    assert tfidf_accuracy(tmp_path / "train.jsonl", tmp_path / "test.jsonl") == 0.0


def test_without_an_answer_the_judge_is_skipped_unless_it_is_required(free_address: str) -> None:
    assert evaluation.judge_state(EvaluateStage(judge="off"), free_address)["state"] == "off"
    state = evaluation.judge_state(EvaluateStage(), free_address)
    assert state["state"] == "skipped"
    assert state["reason"].startswith(f"no Ollama at {free_address} (")
    with pytest.raises(JudgeUnavailable, match=r"start it: ollama serve \(or name another server with OLLAMA_HOST\)"):
        evaluation.judge_state(EvaluateStage(judge="required"), free_address)


def test_a_judge_that_answers_is_part_of_the_key_of_the_scores_alone(
    rows: Path, tmp_path: Path, free_address: str
) -> None:
    without = chain(own(rows), tmp_path, free_address)
    with FakeOllama() as server:
        state = evaluation.judge_state(EvaluateStage(), server.url)
        assert (state["state"], state["digest"]) == ("scored", server.model_digest)
        judged = chain(own(rows), tmp_path, server.url)
        changed_stages = {name for name, stage in STAGES.items() if judged.key(stage) != without.key(stage)}
        assert changed_stages == {"evaluate"}
        with pytest.raises(JudgeModelMissing, match=r"has no model 'llama9'.*get it: ollama pull llama9"):
            evaluation.judge_state(EvaluateStage(judge="required", judge_model="llama9"), server.url)


def test_a_worker_must_say_where_outputs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPTWORKS_HOME", raising=False)
    check_worker_home()
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")
    with pytest.raises(ConfigError, match="start the worker with GPTWORKS_HOME naming the folder where outputs are"):
        check_worker_home()
    monkeypatch.setenv("GPTWORKS_HOME", "/somewhere")
    check_worker_home()
