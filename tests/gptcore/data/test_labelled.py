"""Labelled texts: classes, long inputs, and labels that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gptcore.data.labelled import LabelledText, label_names
from gptcore.data.readers import read_labelled_tsv
from gptcore.errors import ConfigError, DataError
from gptcore.tokenizer import train_bpe

TOKENIZER = train_bpe(["win a free prize now, see you at lunch " * 3], vocab_size=280)


def _data(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> LabelledText:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    TOKENIZER.save(folder / "tokenizer")
    settings = {"labels": ("ham", "spam"), "context_length": 12, **changes}
    return LabelledText(path=path, tokenizer=folder / "tokenizer", **settings)


ROWS = [
    {"text": "see you", "label": "ham"},
    {"text": "win a free prize now! win a free prize now!", "label": "spam"},
    {"text": "lunch", "label": "ham"},
]


@pytest.mark.parametrize("end_token", [True, False])
def test_rows_become_tokens_and_class_ids(tmp_path: Path, end_token: bool) -> None:
    source = _data(tmp_path, ROWS, end_token=end_token).open()
    batch = source.batch([0, 2])
    end = [TOKENIZER.end_of_text] if end_token else []
    first, second = [*TOKENIZER.encode("see you"), *end], [*TOKENIZER.encode("lunch"), *end]
    assert batch.inputs["tokens"][0, : len(first)].tolist() == first
    assert batch.lengths == (len(first), len(second))
    assert batch.targets["classes"].tolist() == [0, 0]
    assert source.batch([1]).targets["classes"].tolist() == [1]
    assert (source.n_samples, source.tokenizer_digest) == (3, TOKENIZER.digest)


def test_cut_and_empty_rows_are_in_the_ledger(tmp_path: Path) -> None:
    source = _data(tmp_path, [*ROWS, {"text": "", "label": "ham"}], split="test").open()
    ledger = source.ledger
    ledger.check()
    assert [ledger.total(o, split="test") for o in ("in", "kept", "dropped", "cut")] == [4, 3, 1, 1]
    assert ledger.total("cut", reason="longer than the context, head kept") == 1
    assert ledger.total("dropped", reason="empty text") == 1
    assert ledger.total("tokens") == int(source.lengths.sum())


def test_a_cut_row_leaves_room_for_its_end_token(tmp_path: Path) -> None:
    source = _data(tmp_path, ROWS).open()
    tokens = source.batch([1]).inputs["tokens"][0].tolist()
    assert tokens == [*TOKENIZER.encode(ROWS[1]["text"])[:11], TOKENIZER.end_of_text]


def test_a_label_never_seen_in_training_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: the label 'spamm' was never seen in training; did you mean 'spam'"):
        _data(tmp_path, [ROWS[0], {"text": "x", "label": "spamm"}]).open()


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    data = _data(tmp_path, [ROWS[0], ROWS[2]])
    message = r"all 2 rows have the label 'ham'; a classifier needs rows of two classes"
    with pytest.raises(DataError, match=message):
        data.open()
    with pytest.raises(DataError, match=message):
        label_names(data.path)


@pytest.mark.parametrize("labels", [(), ("ham",), ("ham", "ham")])
def test_impossible_label_lists_are_refused(tmp_path: Path, labels: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="must hold two or more names, each once"):
        _data(tmp_path, ROWS, labels=labels).open()


def test_too_short_a_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="context_length is 1; it must be at least 2"):
        _data(tmp_path, ROWS, context_length=1).open()


def test_rows_that_are_all_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows are left"):
        _data(tmp_path, [{"text": "", "label": "ham"}, {"text": "", "label": "spam"}]).open()


def test_a_row_without_label_names_the_keys_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: the key 'label' is missing; the keys found are 'text', 'class'"):
        _data(tmp_path, [{"text": "x", "class": "ham"}]).open()


def test_label_names_are_sorted_and_numbers_become_names(tmp_path: Path) -> None:
    data = _data(tmp_path, [{"text": "x", "label": 1}, {"text": "y", "label": 0}, {"text": "z", "label": 1}])
    assert label_names(data.path) == ("0", "1")


def test_the_value_survives_json(tmp_path: Path) -> None:
    data = _data(tmp_path, ROWS, long_inputs="head+tail")
    assert LabelledText.from_dict(json.loads(json.dumps(data.to_dict()))) == data


def test_the_whole_sms_collection_is_read_and_encoded(shared_data: Path, tmp_path: Path) -> None:
    rows = list(read_labelled_tsv(shared_data / "SMSSpamCollection"))
    assert (len(rows), sum(row["label"] == "spam" for row in rows)) == (5574, 747)
    source = _data(tmp_path, rows, context_length=120).open()
    assert source.n_samples == 5574
