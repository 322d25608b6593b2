"""Instruction rows: what is a target, what is cut, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gptcore.batch import IGNORED
from gptcore.data.instructions import Instructions
from gptcore.data.templates import template_by_name
from gptcore.errors import ConfigError, DataError
from gptcore.tokenizer import train_bpe

TOKENIZER = train_bpe(["Q: convert kilometers to meters. A: 45 kilometers is 45000 meters"], vocab_size=280)
ROW = {"instruction": "convert", "input": "45 km", "output": "45000 meters"}
PROMPT = template_by_name("short").encode_prompt("convert", "45 km", tokenizer=TOKENIZER)
RESPONSE = [*TOKENIZER.encode("45000 meters"), TOKENIZER.end_of_text]


def _data(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Instructions:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    TOKENIZER.save(folder / "tokenizer")
    settings = {"template": "short", "context_length": 200, **changes}
    return Instructions(path=path, tokenizer=folder / "tokenizer", **settings)


def test_labels_are_the_next_tokens_of_the_response_and_its_end(tmp_path: Path) -> None:
    batch = _data(tmp_path, [ROW]).open().batch([0])
    full = [*PROMPT, *RESPONSE]
    assert batch.inputs["tokens"][0].tolist() == full[:-1]
    assert batch.targets["labels"][0].tolist() == [IGNORED] * (len(PROMPT) - 1) + RESPONSE
    assert batch.targets["labels"][0, -1] == TOKENIZER.end_of_text


def test_an_unmasked_prompt_is_a_target_too(tmp_path: Path) -> None:
    batch = _data(tmp_path, [ROW], mask_prompt=False).open().batch([0])
    assert batch.targets["labels"][0].tolist() == [*PROMPT, *RESPONSE][1:]


def test_padding_is_no_target_though_it_is_the_end_token(tmp_path: Path) -> None:
    batch = _data(tmp_path, [ROW, {**ROW, "output": "4"}]).open().batch([0, 1])
    labels = batch.targets["labels"]
    n_short = len(TOKENIZER.encode("4")) + 1
    assert (labels[1] != IGNORED).sum() == n_short
    assert (labels == TOKENIZER.end_of_text).sum(dim=1).tolist() == [1, 1]


def test_a_row_without_input_uses_the_shorter_prompt(tmp_path: Path) -> None:
    rows = [{"instruction": "convert", "output": "45000 meters"}, {**ROW, "input": None}]
    source = _data(tmp_path, rows).open()
    batch = source.batch([0, 1])
    assert batch.inputs["tokens"][0].tolist() == batch.inputs["tokens"][1].tolist()
    assert "".join(TOKENIZER.decode(batch.inputs["tokens"][0].tolist())) == "Q: convert\nA: 45000 meters"


def test_the_end_token_of_the_style_is_the_target(tmp_path: Path) -> None:
    data = _data(tmp_path, [ROW], template="phi-3")
    bigger = TOKENIZER.with_special_tokens(template_by_name("phi-3").special_tokens)
    bigger.save(tmp_path / "tokenizer")
    labels = data.open().batch([0]).targets["labels"][0].tolist()
    assert labels[-1] == bigger.special_tokens["<|end|>"]


def test_a_long_row_is_cut_and_counted(tmp_path: Path) -> None:
    source = _data(tmp_path, [ROW], context_length=len(PROMPT) + 2).open()
    labels = source.batch([0]).targets["labels"][0].tolist()
    assert [i for i in labels if i != IGNORED] == RESPONSE[:3]
    assert (source.ledger.total("cut"), source.ledger.total("kept"), source.context_length) == (1, 1, len(PROMPT) + 2)


def test_a_row_that_just_fits_is_not_cut(tmp_path: Path) -> None:
    source = _data(tmp_path, [ROW], context_length=len(PROMPT) + len(RESPONSE) - 1).open()
    assert source.ledger.total("cut") == 0
    assert source.batch([0]).targets["labels"][0, -1] == TOKENIZER.end_of_text


def test_a_row_whose_targets_are_all_cut_is_dropped_and_counted(tmp_path: Path) -> None:
    long = {**ROW, "instruction": "convert " * 60}
    source = _data(tmp_path, [ROW, long], context_length=60).open()
    source.ledger.check()
    assert (source.n_samples, source.ledger.count_fully_masked(), source.ledger.total("in")) == (1, 1, 2)


def test_exactly_one_target_left_is_kept(tmp_path: Path) -> None:
    labels = _data(tmp_path, [ROW], context_length=len(PROMPT)).open().batch([0]).targets["labels"][0]
    assert [i for i in labels.tolist() if i != IGNORED] == RESPONSE[:1]


def test_no_usable_target_at_all_is_an_error(tmp_path: Path) -> None:
    message = r"not one of 2 rows has a usable target \(1 fully_masked, 1 empty output\); raise context_length \(now"
    with pytest.raises(DataError, match=message):
        _data(tmp_path, [ROW, {**ROW, "output": " "}], context_length=len(PROMPT) - 1).open()


def test_long_rows_can_be_dropped_instead(tmp_path: Path) -> None:
    long = {**ROW, "output": "meters " * 60}
    source = _data(tmp_path, [ROW, long], context_length=50, too_long="drop").open()
    assert source.n_samples == 1
    assert source.ledger.total("dropped", reason="longer than the context") == 1


def test_long_rows_can_be_an_error_instead(tmp_path: Path) -> None:
    long = {**ROW, "output": "meters " * 60}
    message = r"line 2: \d+ tokens, context_length 50 allows 51; shorten it, or choose too_long = cut or drop"
    with pytest.raises(DataError, match=message):
        _data(tmp_path, [ROW, long], context_length=50, too_long="error").open()


def test_a_style_the_tokenizer_cannot_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'phi-3' needs the special tokens <\|user\|>"):
        _data(tmp_path, [ROW], template="phi-3").open()


def test_rows_without_output_name_the_keys_found(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"line 1: the key 'output' is missing; the keys found are 'instruction', 'response'"
    ):
        _data(tmp_path, [{"instruction": "x", "response": "y"}]).open()


def test_the_value_survives_json(tmp_path: Path) -> None:
    data = _data(tmp_path, [ROW], too_long="drop")
    assert Instructions.from_dict(json.loads(json.dumps(data.to_dict()))) == data


def test_the_shared_instructions_are_all_usable(shared_data: Path, tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer")
    source = Instructions(
        path=shared_data / "instruction-data.json",
        tokenizer=tmp_path / "tokenizer",
        template="alpaca",
        context_length=1024,
    ).open()
    assert (source.n_samples, source.ledger.total("kept")) == (1100, 1100)
