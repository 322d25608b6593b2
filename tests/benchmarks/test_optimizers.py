"""Muon against AdamW: the rate is chosen on a seed of its own, and the report says who was better by how much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.measured import Measured
from benchmarks.optimizers import RATES, build, compared, measure
from benchmarks.options import Options, parse, shared_parser
from benchmarks.prepare import HELD_OUT, TOKENIZER, TRAIN
from gptcore.data.corpus import write_shards
from gptcore.tokenizer import train_bpe


def options(*arguments: str) -> Options:
    return parse(shared_parser("", steps=8), ["--smoke", *arguments])


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A little text in the place of Shakespeare's; and no new start of the process for the sake of huge pages."""
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    text = "".join(f"The keeper counted {n} ships before the fog came down on number {n * 7}.\n" for n in range(60))
    tokenizer = train_bpe([text], vocab_size=300)
    tokenizer.save(tmp_path / TOKENIZER)
    write_shards([text[:-500]], tokenizer=tokenizer, folder=tmp_path / TRAIN)
    write_shards([text[-500:]], tokenizer=tokenizer, folder=tmp_path / HELD_OUT)
    return tmp_path


@pytest.mark.parametrize("optimizer", list(RATES))
def test_the_first_turn_chooses_the_rate_for_all(prepared: Path, optimizer: str) -> None:
    first = measure(options("--turn", "0"), prepared, optimizer=optimizer)
    grid = first.facts["grid"]
    assert [float(rate) for rate in grid] == list(RATES[optimizer])
    assert grid[f"{first.facts['learning rate']:g}"] == min(grid.values())
    (kept,) = prepared.glob("grid-*.json")
    kept.write_text(json.dumps(grid | {f"{RATES[optimizer][0]:g}": 0.0}))  # as if the first rate had been the best
    second = measure(options("--turn", "1"), prepared, optimizer=optimizer)
    assert second.facts["learning rate"] == RATES[optimizer][0]
    again = measure(options("--turn", "1"), prepared, optimizer=optimizer)
    assert again.facts["curve"] == second.facts["curve"] != first.facts["curve"]  # a turn is a seed
    assert len(first.seconds) == 2
    assert [n_tokens for n_tokens, _ in first.facts["curve"]] == [1024, 2048, 3072]
    assert first.facts["curve"][-1][1] == first.facts["bits_per_byte"]
    assert 0 < first.facts["bits_per_byte"] < 20


def found(rate: float, seed: int, curve: list[tuple[int, float]], *, speed: float) -> Measured:
    facts = {"learning rate": rate, "grid": {f"{rate:g}": 2.5, "1": 3.0}, "mfu": 0.4, "bits_per_byte": curve[-1][1]}
    facts["curve"] = [[n_tokens, value + 0.01 * seed] for n_tokens, value in curve]
    return Measured([1.0], [speed], 100.0, facts)


def test_the_comparison_is_by_seed_and_says_where_one_overtakes_the_other(tmp_path: Path) -> None:
    slow, fast = [(100, 4.0), (200, 3.5), (400, 3.0)], [(100, 3.6), (200, 2.9), (400, 2.5)]
    rounds = {
        "adamw": [found(2e-3, seed, slow, speed=100.0) for seed in range(3)],
        "muon": [found(8e-3, seed, fast, speed=50.0) for seed in range(3)],
    }
    text = compared(rounds, tmp_path / "2026-01-01-optimizers")
    assert "| adamw | 0.002 | 0.002: 2.500, 1: 3.000 | 100 (100–100) | 0.40 (0.40–0.40) |" in text
    assert "by seed: -0.500, -0.500, -0.500; mean -0.500" in text
    assert "What AdamW reaches after 400 tokens (4 s of training), Muon has reached after 200 (4 s)." in text
    assert (tmp_path / "2026-01-01-optimizers.png").read_bytes()[:4] == b"\x89PNG"
    assert "has reached" not in compared({"adamw": rounds["muon"], "muon": rounds["adamw"]}, None)
    assert "by seed" not in compared({"muon": rounds["muon"]}, None)


def test_muon_must_not_be_worse() -> None:
    work = build(options())
    assert [target.text(unit=work.unit) for target in work.targets] == ["muon: held-out bits per byte ≤ 1 × adamw"]
    assert work.figure(found(1.0, 0, [(1, 2.0)], speed=1.0)) == 2.0
