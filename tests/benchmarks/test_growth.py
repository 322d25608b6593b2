"""The growth of cost: the cases are what they are called, and the table compares each with the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.growth import AXES, FACTORS, ONE, cases, grown, name_of
from benchmarks.measured import Measured
from gptcore.models import GPTConfig
from gptcore.scaling import count_parameters


def measured(rate: float, memory: float) -> Measured:
    return Measured([1.0, 1.0, 1.0], [rate] * 3, memory, {"n_parameters": 30_000_000, "mfu": 0.5})


def test_each_case_grows_one_thing_by_its_factor() -> None:
    found = cases()
    assert len(found) == 1 + len(AXES) * len(FACTORS)
    n_parameters, one = {}, found[ONE]
    for name, size in found.items():
        sizes = {"width": size.width, "n_layers": size.n_layers, "n_heads": size.n_heads}
        n_parameters[name] = count_parameters(GPTConfig(context_length=one.length, **sizes)).total
    for factor in FACTORS:
        assert n_parameters[name_of("parameters", factor)] == pytest.approx(factor * n_parameters[ONE], rel=0.05)
        assert found[name_of("context", factor)] == one._replace(length=factor * one.length)
        assert found[name_of("batch", factor)] == one._replace(batch_size=factor * one.batch_size)


def test_the_table_compares_with_the_first_case_and_the_plot_stands_beside_the_report(tmp_path: Path) -> None:
    rounds = {
        name: [measured(rate, memory), measured(rate * 1.1, memory)]
        for name, rate, memory in (
            (ONE, 1000.0, 800.0),
            ("parameters-2x", 500.0, 1200.0),
            ("batch-4x", 1100.0, 1600.0),
        )
    }
    lines = grown(rounds, tmp_path / "2026-01-01-growth").splitlines()
    assert lines[2] == "| 1x | 30.0 | 1 | 1 | 0.50 (0.50–0.50) |"
    assert lines[3] == "| parameters, 2x | 30.0 | 0.50 (0.50–0.50) | 1.50 (1.50–1.50) | 0.50 (0.50–0.50) |"
    assert lines[4].startswith("| batch, 4x | 30.0 | 1.10 (1.10–1.10) | 2.00 (2.00–2.00) |")
    assert lines[-1] == "![tokens/s and peak RSS over the factor](2026-01-01-growth.png)"
    assert (tmp_path / "2026-01-01-growth.png").read_bytes()[:4] == b"\x89PNG"


def test_without_the_first_case_there_is_nothing_to_compare() -> None:
    assert grown({"batch-2x": [measured(1.0, 1.0)]}, None) == ""
