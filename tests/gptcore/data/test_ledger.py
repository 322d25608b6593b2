"""The ledger adds up, or says that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptcore.data.ledger import FULLY_MASKED, Ledger
from gptcore.errors import DataError


def _ledger() -> Ledger:
    ledger = Ledger()
    ledger.count("clean", "in", n=10, unit="documents")
    ledger.count("clean", "kept", n=7, unit="documents")
    ledger.count("clean", "dropped", reason="duplicate", n=3, unit="documents")
    ledger.count("encode", "in", n=2, split="train")
    ledger.count("encode", "kept", split="train")
    ledger.count("encode", "cut", reason="too long", split="train")
    ledger.count("encode", "dropped", reason=FULLY_MASKED, split="train")
    ledger.count("encode", "tokens", n=123, split="train", unit="tokens")
    return ledger


def test_totals_narrow_by_stage_split_and_reason() -> None:
    ledger = _ledger()
    assert ledger.total("dropped") == 4
    assert ledger.total("dropped", stage="clean") == 3
    assert ledger.total("dropped", reason="duplicate", split="all") == 3
    assert ledger.count_fully_masked(split="train") == ledger.count_fully_masked(stage="encode") == 1
    assert ledger.total("tokens") == 123


def test_the_table_has_one_line_per_outcome_and_reason() -> None:
    rows = _ledger().to_rows()
    assert len(rows) == 8
    assert rows[2] == {
        "stage": "clean",
        "split": "all",
        "outcome": "dropped",
        "reason": "duplicate",
        "n": 3,
        "unit": "documents",
    }


def test_merging_adds() -> None:
    ledger = _ledger()
    ledger.merge(_ledger())
    assert ledger.total("in", stage="clean") == 20
    ledger.check()


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    _ledger().save(tmp_path / "deep" / "ledger.json")
    assert Ledger.load(tmp_path / "deep" / "ledger.json").to_rows() == _ledger().to_rows()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["ledger.json"]


def test_a_lost_row_is_noticed(tmp_path: Path) -> None:
    ledger = _ledger()
    ledger.count("encode", "in", split="train")
    message = "stage 'encode', split 'train' does not add up: 3 rows in, 1 kept [+] 1 dropped"
    with pytest.raises(DataError, match=message):
        ledger.check()
    with pytest.raises(DataError, match=message):
        ledger.save(tmp_path / "ledger.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[{}]", "3", '[{"outcome": "vanished"}]'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "ledger.json").write_text(content)
    with pytest.raises(DataError, match="ledger"):
        Ledger.load(tmp_path / "ledger.json")
