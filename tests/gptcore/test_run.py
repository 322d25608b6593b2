"""Runs as values: what must fit together, what is told, and every kind of training once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore import checkpoint
from gptcore.data import Instructions, LabelledText, write_shards
from gptcore.data.windows import TokenWindows
from gptcore.errors import ConfigError, TokenizerMismatch
from gptcore.models import GPTConfig
from gptcore.objectives import Classify
from gptcore.run import Run
from gptcore.tokenizer import Tokenizer, train_bpe
from gptcore.train import MemoryLogger
from gptcore.transforms import Classifier, ExtendVocabulary, LoRA, Transform

LABELS = ("sea", "land")


@pytest.fixture
def base(prepared: Any, tmp_path: Path) -> Path:
    """A checkpoint trained for a moment."""
    path: Path = prepared.run(train={"steps": 2}).execute(tmp_path / "base", MemoryLogger()).path
    return path


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_run_trains_and_leaves_a_checkpoint_and_its_own_description(prepared: Any, tmp_path: Path) -> None:
    log, steps = MemoryLogger(), []
    run = prepared.run()
    result = run.execute(tmp_path / "out", log, on_progress=lambda p: steps.append((p.step, p.n_steps)))
    assert result.path == tmp_path / "out" / "checkpoint"
    assert Run.from_dict(json.loads((tmp_path / "out" / "run.json").read_text())) == run
    assert steps == [(step, 12) for step in range(1, 13)]
    assert log.params["n_steps"] == 12
    assert log.params["n_parameters"] == log.params["n_trainable"] > 5000
    assert log.params["trained_share"] == 1.0
    assert [step for step, _ in log.series("train/loss")] == [3, 6, 9, 12]
    assert [step for step, _ in log.series("val/loss")] == [5, 10, 12]
    assert {
        "val/loss",
        "val/perplexity",
        "val/bits_per_byte",
        "perf/seconds",
        "perf/peak_rss_mb",
    } <= result.metrics.keys()
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [(line["step"], line["prompt"]) for line in samples] == [(5, "The cat"), (10, "The cat"), (12, "The cat")]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(prepared: Any, tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = prepared.run(seed=seed, train={"steps": 3}).execute(tmp_path / name, MemoryLogger()).path
        files.append((path / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_classifier_is_trained_from_a_checkpoint_and_told_by_its_accuracy(
    prepared: Any, base: Path, tmp_path: Path
) -> None:
    texts = [{"text": f"ship fog tide {i}", "label": "sea"} for i in range(6)]
    texts += [{"text": f"house village baker {i}", "label": "land"} for i in range(6)]
    data = LabelledText(write_rows(tmp_path / "rows.jsonl", texts), prepared.tokenizer, LABELS, 16)
    head = Classifier(labels=LABELS, train="last_blocks")
    changes = {"data": data, "held_out": data, "objective": Classify(), "transforms": (head,)}
    train = {"steps": 40, "sample_prompts": (), "eval_every": 100}
    log = MemoryLogger()
    result = prepared.run(init=base, train=train, **changes).execute(tmp_path / "out", log)
    assert result.metrics["val/accuracy"] == 1.0
    assert "val/perplexity" not in result.metrics
    before, after = checkpoint.load(base).model.state_dict(), checkpoint.load(result.path).model.state_dict()
    same = {name for name in before.keys() & after.keys() if torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in before if name.startswith("blocks.") and name not in same} == {"1"}
    assert {"token_embedding.weight", "position_embedding.weight"} <= same
    assert log.params["n_trainable"] < log.params["n_parameters"] / 2


def test_a_lora_run_leaves_the_base_as_it_was_and_resumes(prepared: Any, base: Path, tmp_path: Path) -> None:
    log = MemoryLogger()
    run = prepared.run(init=base, transforms=(LoRA(rank=2, targets=("qkv", "out")),))
    result = run.execute(tmp_path / "out", log)
    before, loaded = checkpoint.load(base).model.state_dict(), checkpoint.load(result.path)
    after = loaded.model.state_dict()
    changed = {n for n, t in after.items() if "lora_" not in n and not torch.equal(t, before[n.replace(".base", "")])}
    assert changed == set()
    assert any(bool(tensor.any()) for name, tensor in after.items() if name.endswith("lora_b"))
    assert loaded.spec.transforms == run.transforms
    trained = 2 * 2 * ((16 + 48) + (16 + 16))
    assert log.params["n_trainable"] == trained
    assert log.params["trained_share"] == round(trained / log.params["n_parameters"], 6)


@pytest.mark.parametrize("further", [(), (LoRA(rank=2, also_train=("token_embedding",)),)])
def test_instructions_bring_their_special_tokens_and_template(
    prepared: Any, base: Path, tmp_path: Path, further: tuple[Transform, ...]
) -> None:
    longer = Tokenizer.load(prepared.tokenizer).with_special_tokens(["<|im_start|>", "<|im_end|>"])
    longer.save(tmp_path / "longer")
    rows = [{"instruction": f"Say {i}", "output": f"{i}{i}"} for i in range(8)]
    data = Instructions(write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "longer", "chatml", 32)
    transforms = (ExtendVocabulary(vocab_size=longer.vocab_size), *further)
    changes = {"data": data, "held_out": data, "tokenizer": tmp_path / "longer", "template": "chatml"}
    result = prepared.run(init=base, transforms=transforms, **changes).execute(tmp_path / "out", MemoryLogger())
    loaded = checkpoint.load(result.path)
    assert loaded.spec.template == "chatml"
    assert loaded.tokenizer.digest == loaded.spec.tokenizer_digest == longer.digest
    embedding = loaded.model.get_parameter("token_embedding.weight")
    assert embedding.shape[0] == 302
    assert loaded.model.head.weight is embedding


# --- what does not belong together


def test_a_run_has_a_model_or_a_checkpoint(prepared: Any) -> None:
    run = prepared.run()
    for changes in ({"model": None}, {"init": Path("somewhere")}):
        with pytest.raises(ConfigError, match=r"expected exactly one of model .* and init .*; set one"):
            dataclasses.replace(run, **changes)


def test_a_context_longer_than_the_models_is_refused(prepared: Any, tmp_path: Path) -> None:
    data = dataclasses.replace(prepared.train, context_length=64)
    message = r"the data is cut to 64 positions, the model's context_length is 32; lower data\.context_length or choose"
    with pytest.raises(ConfigError, match=message):
        prepared.run(data=data).execute(tmp_path / "out", MemoryLogger())
    with pytest.raises(ConfigError, match=message):
        prepared.run(held_out=dataclasses.replace(data, folder=prepared.train.folder)).execute(
            tmp_path / "out", MemoryLogger()
        )


def test_a_vocabulary_smaller_than_the_datas_is_refused(prepared: Any, tmp_path: Path) -> None:
    model = GPTConfig(vocab_size=299, context_length=16, width=16, n_layers=1, n_heads=1)
    message = r"up to 299, the model's vocabulary has only 299 tokens; set model\.vocab_size to the tokenizer's"
    with pytest.raises(ConfigError, match=message):
        prepared.run(model=model).execute(tmp_path / "out", MemoryLogger())


def test_data_of_another_tokenizer_is_refused_and_both_are_named(prepared: Any, page: str, tmp_path: Path) -> None:
    own, other = Tokenizer.load(prepared.tokenizer), train_bpe([page.upper()], vocab_size=280)
    write_shards([page], tokenizer=other, folder=tmp_path / "others")
    message = (
        rf"made with tokenizer {other.digest[:12]}, this run uses {own.name} \({own.digest[:12]}\); prepare the data"
    )
    with pytest.raises(TokenizerMismatch, match=message):
        prepared.run(data=TokenWindows(tmp_path / "others", 16)).execute(tmp_path / "out", MemoryLogger())


def test_a_checkpoint_of_another_tokenizer_is_refused_and_both_are_named(
    prepared: Any, base: Path, page: str, tmp_path: Path
) -> None:
    own, other = Tokenizer.load(prepared.tokenizer), train_bpe([page.upper()], vocab_size=280)
    write_shards([page], tokenizer=other, folder=tmp_path / "others")
    other.save(tmp_path / "tokenizer")
    data = TokenWindows(tmp_path / "others", 16)
    run = prepared.run(init=base, data=data, held_out=None, tokenizer=tmp_path / "tokenizer")
    message = (
        rf"was trained with tokenizer {own.name} \({own.digest[:12]}\), the data with bpe-280 \({other.digest[:12]}\)"
    )
    with pytest.raises(TokenizerMismatch, match=message):
        run.execute(tmp_path / "out", MemoryLogger())
