"""A classifier reads raw text as it was trained to, and its checkpoint says how."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.classifier import TextClassifier
from gptcore.data import LabelledText
from gptcore.errors import ConfigError, DataError
from gptcore.measures import class_probabilities
from gptcore.objectives import Classify
from gptcore.readers import TextReader
from gptcore.run import Run
from gptcore.train import MemoryLogger
from gptcore.transforms import Classifier, LoRA, Quantize

LABELS = ("sea", "land")
READERS = [
    TextReader("head"),
    TextReader("tail"),
    TextReader("head+tail"),
    TextReader("tail", end_token=False),
    TextReader("tail", longest=7),
]


def named(reader: TextReader) -> str:
    return f"{reader.long_inputs}-{reader.end_token}-{reader.longest}"


@pytest.fixture
def rows(tmp_path: Path) -> tuple[Path, list[str]]:
    """Texts of which most are longer than the context."""
    texts = [f"ship {i} tide {'fog ' * i} house" for i in range(12)] + [f"baker {'oven ' * i} sea" for i in range(12)]
    lines = [json.dumps({"text": text, "label": LABELS[i // 12]}) + "\n" for i, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path / "rows.jsonl", texts


@pytest.fixture
def classification(prepared: Any, rows: tuple[Path, list[str]]) -> Any:
    """A run that trains a classifier whose texts are read in some way."""

    def build(reader: TextReader, **changes: Any) -> Run:
        length = reader.longest or 32
        data = LabelledText(rows[0], prepared.tokenizer, LABELS, length, reader.long_inputs, "train", reader.end_token)
        train = {"steps": 3, "sample_prompts": (), "checkpoint_every": 1, **changes.pop("train", {})}
        settings = {"data": data, "held_out": data, "objective": Classify(), "train": train}
        if "init" not in changes:
            settings["transforms"] = (Classifier(labels=LABELS, train="all"),)
        run: Run = prepared.run(**settings, **changes)
        return run

    return build


def spread(path: Path) -> Path:
    """The checkpoint with a head that tells texts apart, as three steps would not."""
    loaded = checkpoint.load(path)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    checkpoint.save(path, model=loaded.model, spec=loaded.spec, **loaded.readers._asdict())
    return path


@pytest.mark.parametrize("reader", READERS, ids=named)
def test_a_trained_classifier_reads_raw_text_as_its_data_did(
    classification: Any, rows: tuple[Path, list[str]], tmp_path: Path, reader: TextReader
) -> None:
    run = classification(reader)
    path = spread(run.execute(tmp_path / "out", MemoryLogger()).path)
    model = TextClassifier.load(path)
    assert model.reader == reader
    wanted = class_probabilities(checkpoint.load(path).model, run.data.open())
    found = model.probabilities(rows[1])
    assert torch.equal(found, wanted)
    assert model.classify(rows[1]) == [LABELS[i] for i in wanted.argmax(dim=1).tolist()]
    other = dataclasses.replace(model, reader=TextReader() if reader != TextReader() else TextReader("tail"))
    assert not torch.allclose(other.probabilities(rows[1]), wanted, atol=1e-4)  # or nothing was tried here


def test_how_text_is_read_survives_resuming_lora_on_top_an_adapter_and_a_quantized_copy(
    classification: Any, prepared: Any, tmp_path: Path
) -> None:
    reader = TextReader("head+tail", longest=20)
    run = classification(reader, train={"keep_every": 1})
    first = run.execute(tmp_path / "out", MemoryLogger()).path
    (tmp_path / "out" / "result.json").unlink()
    assert [checkpoint.read_spec(path).reader for path in (tmp_path / "out" / "checkpoints").iterdir()] == [reader] * 2
    assert run.execute(tmp_path / "out", MemoryLogger()).path == first
    assert checkpoint.read_spec(first).reader == reader
    tuned = classification(reader, init=first, transforms=(LoRA(rank=2, also_train=("head",)),))
    second = tuned.execute(tmp_path / "lora", MemoryLogger()).path
    loaded = checkpoint.load(second)
    assert loaded.spec.reader == reader
    trained = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
    checkpoint.save_adapter(tmp_path / "adapter", tensors=trained, spec=loaded.spec)
    assert checkpoint.load_adapter(tmp_path / "adapter", first).spec.reader == reader
    base = checkpoint.load(first)
    spec = dataclasses.replace(base.spec, transforms=(*base.spec.transforms, Quantize()))
    checkpoint.save(tmp_path / "int8", model=Quantize().apply(base.model), spec=spec, **base.readers._asdict())
    assert TextClassifier.load(tmp_path / "int8").reader == reader


def test_a_resumed_run_that_reads_in_another_way_is_refused(classification: Any, tmp_path: Path) -> None:
    classification(TextReader("tail")).execute(tmp_path / "out", MemoryLogger())
    with pytest.raises(ConfigError, match=r"reader"):
        classification(TextReader("head")).execute(tmp_path / "out", MemoryLogger())


def test_held_out_texts_are_read_as_those_of_training(classification: Any, tmp_path: Path) -> None:
    run = classification(TextReader("tail"))
    other = dataclasses.replace(run, held_out=dataclasses.replace(run.data, long_inputs="head"))
    with pytest.raises(ConfigError, match="expected held_out to be read as data is"):
        other.execute(tmp_path / "out", MemoryLogger())


def test_a_classifier_from_before_is_read_from_its_head_with_an_end_token_and_nothing_new_is_written_for_it(
    classification: Any, tmp_path: Path
) -> None:
    path = classification(TextReader()).execute(tmp_path / "out", MemoryLogger()).path
    written = json.loads((path / "model.json").read_text())
    assert written.keys() == {"kind", "model", "transforms", "template", "tokenizer_digest"}
    assert ModelSpec.from_dict(written).reader == TextReader("head", end_token=True)


def test_an_empty_text_is_its_end_token_or_refused_and_no_text_gives_no_row(
    classification: Any, tmp_path: Path
) -> None:
    model = TextClassifier.load(classification(TextReader()).execute(tmp_path / "out", MemoryLogger()).path)
    assert model.probabilities(["", "x"]).sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
    assert model.probabilities([]).shape == (0, 2)
    bare = dataclasses.replace(model, reader=TextReader(end_token=False))
    with pytest.raises(DataError, match="got an empty one in row 1"):
        bare.probabilities(["x", ""])


def test_a_language_model_is_no_classifier(prepared: Any, tmp_path: Path) -> None:
    path = prepared.run(train={"steps": 1}).execute(tmp_path / "out", MemoryLogger()).path
    with pytest.raises(ConfigError, match=r"expected a classifier, got .*, which has no classes"):
        TextClassifier.load(path)
