"""Evidence of small models: every item measured, other tokenizers and classes comparable, the judge weighed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eval.testing.fake_ollama import FakeOllama
from flows.gate.items import EvaluationSet, evaluation_set
from flows.gate.measure import Instrument, ModelFiles, measure
from flows.gate.policy import GatePolicy
from flows.settings import read_settings
from flows.sources.base import Places
from flows.stages.context import Context
from flows.stages.evaluate.body import judge_state
from flows.stages.evaluate.recipe import EvaluateStage
from flows.tracking.journal import new_run_id, open_journal
from flows.tracking.logger import MlflowLogger
from flows.tracking.shipper import Shipper
from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.data import template_by_name, write_shards
from gptcore.files import write_json_lines
from gptcore.models import GPTConfig
from gptcore.tokenizer import Tokenizer, train_bpe
from gptcore.transforms import Classifier

OFF = {"state": "off", "reason": ""}
COLOURS = ("red", "green", "blue", "grey", "pink")


def instructions(numbers: Sequence[int]) -> list[dict[str, str]]:
    return [
        {"instruction": f"Name thing {i}.", "input": "", "output": f"red{i} green{i} blue{i} grey{i}"} for i in numbers
    ]


def labelled(numbers: Sequence[int]) -> list[dict[str, str]]:
    return [{"text": f"{COLOURS[i % 5]} number {i}", "label": COLOURS[i % 3]} for i in numbers]


def tokenizer(vocab_size: int) -> Tokenizer:
    words = template_by_name("short").special_tokens
    return train_bpe([" ".join(COLOURS) * 3, "a thing number 1 2 3"], vocab_size=vocab_size).with_special_tokens(words)


def prepared(folder: Path, *, test: Sequence[int], train: Sequence[int]) -> Path:
    """What preparation leaves, as far as a gate reads it."""
    tokens = tokenizer(300)
    tokens.save(folder / "tokenizer")
    for part, rows in (("instruct", instructions), ("classify", labelled)):
        for split, numbers in (("train", train), ("val", ()), ("test", test)):
            write_json_lines(folder / part / f"{split}.jsonl", rows(numbers))
    for split, numbers in (("train", train), ("val", test)):
        texts = [f"Text {i} about {COLOURS[i % 5]} things.\nIt has two lines." for i in numbers]
        write_shards(texts, tokenizer=tokens, folder=folder / "corpus" / split)
    return folder


def model_files(
    folder: Path, *, vocab_size: int = 300, labels: tuple[str, ...] = COLOURS[:3], seed: int = 1
) -> ModelFiles:
    torch.manual_seed(seed)
    tokens = tokenizer(vocab_size)
    sizes = GPTConfig(vocab_size=tokens.vocab_size, context_length=48, width=16, n_layers=1, n_heads=2)
    plain = ModelSpec(sizes, tokenizer_digest=tokens.digest)
    specs = {
        "base": plain,
        "instruct": replace(plain, template="short"),
        "classifier": replace(plain, transforms=(Classifier(labels=labels),)),
    }
    for name, spec in specs.items():
        checkpoint.save(folder / name, model=spec.build(), spec=spec, tokenizer=tokens)
    return ModelFiles(f"key of {folder.name}", *(folder / name for name in specs))


def context(folder: Path, host: str = "") -> Context:
    nowhere = read_settings({"GPTWORKS_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    journal = open_journal(nowhere.spool, stage="gate", key="k", run_id=new_run_id())
    log = MlflowLogger(journal, Shipper(nowhere), ui="")
    return Context(folder, Places(None, folder / "cache"), log, lambda _: None, 1, host)


def instrument(items: EvaluationSet, judge: dict[str, str] | None = None) -> Instrument:
    return Instrument(items, EvaluateStage(), judge or OFF, max_new_tokens=4, policy=GatePolicy(max_responses=12))


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSet:
    folder = prepared(tmp_path_factory.mktemp("data"), test=range(20), train=range(100, 110))
    return evaluation_set(folder, champion=None, max_items=16)


def test_the_items_are_named_and_chosen_by_content_and_capped(items: EvaluationSet, tmp_path: Path) -> None:
    assert items.sizes() == {"texts": 16, "classify": 16, "instruct": 16}
    assert (
        len({row["id"] for kind in (items.rows("instruct"), items.rows("classify"), items.texts) for row in kind}) == 48
    )
    mixed = prepared(tmp_path / "mixed", test=[*range(19, -1, -1)], train=range(50, 60))
    assert evaluation_set(mixed, champion=None, max_items=16).digest == items.digest
    assert evaluation_set(mixed, champion=None, max_items=15).digest != items.digest
    assert items.texts[0]["text"].endswith("\nIt has two lines.")


def test_items_that_the_champion_was_trained_on_are_left_out_and_counted(tmp_path: Path) -> None:
    ours = prepared(tmp_path / "ours", test=range(20), train=range(100, 110))
    theirs = prepared(tmp_path / "theirs", test=range(30, 40), train=range(15, 30))
    found = evaluation_set(ours, champion=theirs, max_items=100)
    assert found.sizes() == {"texts": 15, "classify": 15, "instruct": 15}
    assert found.left_out == {"texts": 5, "classify": 5, "instruct": 5}


def test_every_item_is_measured_and_the_same_model_measures_the_same(items: EvaluationSet, tmp_path: Path) -> None:
    files = model_files(tmp_path / "a")
    found = measure(files, instrument(items), context(tmp_path / "one"))
    again = measure(files, instrument(items), context(tmp_path / "two"))
    assert found == again
    assert {name: len(values) for name, values in found.values.items()} == {
        "text": 16,
        "accuracy": 16,
        "answers": 16,
        "rouge_l": 12,
    }
    rows = [json.loads(line) for line in (tmp_path / "one/responses.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in items.rows("instruct")[:12]]


def test_models_with_other_tokenizers_share_a_key_and_a_scale(items: EvaluationSet, tmp_path: Path) -> None:
    coarse = measure(model_files(tmp_path / "a", vocab_size=300), instrument(items), context(tmp_path / "one"))
    fine = measure(model_files(tmp_path / "b", vocab_size=262), instrument(items), context(tmp_path / "two"))
    assert coarse.key == fine.key
    assert set(coarse.values["text"]) == set(fine.values["text"])
    # weights that know nothing: each token costs log2(vocabulary) bits, and coarse tokens span more bytes
    assert coarse.mean("text") < fine.mean("text") < 10


def test_a_class_that_the_model_was_never_told_of_counts_against_it(items: EvaluationSet, tmp_path: Path) -> None:
    files = model_files(tmp_path / "a", labels=("red", "violet"))
    values = measure(files, instrument(items), context(tmp_path / "one")).values["accuracy"]
    assert {values[row["id"]] for row in items.rows("classify") if row["label"] != "red"} == {0.0}


def test_parts_that_a_model_lacks_are_absent(items: EvaluationSet, tmp_path: Path) -> None:
    files = replace(model_files(tmp_path / "a"), classifier=None, instruct=None)
    assert set(measure(files, instrument(items), context(tmp_path / "one")).values) == {"text"}


def test_a_judge_is_part_of_the_key_and_its_controls_decide_whether_it_is_valid(
    items: EvaluationSet, tmp_path: Path
) -> None:
    files = model_files(tmp_path / "a")
    silent = measure(files, instrument(items), context(tmp_path / "one"))
    with FakeOllama() as server:
        judged = instrument(items, judge_state(EvaluateStage(), server.url))
        found = measure(files, judged, context(tmp_path / "two", server.url))
    assert found.judged
    assert found.judge_invalid == ()
    assert len(found.values["judge"]) == 12
    assert found.key != silent.key
    assert found.instrument["judge"]["digest"] == server.model_digest
    with FakeOllama(score=lambda *_: 70) as server:
        lazy = measure(files, judged, context(tmp_path / "three", server.url))
    assert any("right is not told from wrong" in reason for reason in lazy.judge_invalid)
