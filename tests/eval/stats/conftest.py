"""Real scores (100 items, two models' answers, what GPT-4 and Llama 3 8B gave them), and the test that intervals hold.

An interval holds if, over seeded draws of items and judges, 95% of its kind contain what the same judge gives on all
items. A few dozen seeds run in every test run, with bounds as wide as so few allow; thousands run behind the marker
``statistics`` and must cover 93 to 97%.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.stats import Interval

ScoresOf = Callable[[str], list[float]]
Scenario = Callable[[int, int], dict[str, Interval]]
"""(seed, number of items) -> intervals by name."""

FEW_SEEDS, MANY_SEEDS = 60, 2000


@pytest.fixture
def real_scores(shared_data: Path) -> ScoresOf:
    """The scores in one file, such as ``gpt4-model-1``."""

    def read(name: str) -> list[float]:
        values: list[float] = json.loads((shared_data / "judge_scores" / f"{name}-response.json").read_text("utf-8"))
        return values

    return read


@pytest.fixture
def real_items(shared_data: Path) -> list[dict[str, Any]]:
    """The items with both models' answers."""
    rows: list[dict[str, Any]] = json.loads(
        (shared_data / "judge_scores" / "eval-example-data.json").read_text("utf-8")
    )
    return rows


@pytest.fixture(params=[pytest.param(FEW_SEEDS), pytest.param(MANY_SEEDS, marks=pytest.mark.statistics)])
def n_seeds(request: pytest.FixtureRequest) -> int:
    """A sample of the seeds, or, behind the marker ``statistics``, all of them."""
    return int(request.param)


@pytest.fixture
def not_covered(n_seeds: int) -> Callable[..., dict[str, float]]:
    """Which intervals of a scenario do not hold, with the share of seeds for which they contain the truth."""
    low, high = (0.93, 0.97) if n_seeds == MANY_SEEDS else (0.85, 1.0)

    def run(scenario: Scenario, truth: dict[str, float], *, n_items: int) -> dict[str, float]:
        found = [scenario(seed, n_items) for seed in range(n_seeds)]
        shares = {
            name: np.mean([one[name].low <= value <= one[name].high for one in found]) for name, value in truth.items()
        }
        return {name: float(share) for name, share in shares.items() if not low <= share <= high}

    return run
