"""Learning-rate schedules as functions of the step."""

from __future__ import annotations

import pytest

from gptcore.errors import ConfigError
from gptcore.train import Constant, Cosine, Schedule


def curve(schedule: Schedule, n_steps: int) -> list[float]:
    return [schedule.multiplier(step, n_steps=n_steps) for step in range(n_steps)]


def test_the_rate_rises_linearly_to_the_peak() -> None:
    rates = curve(Constant(warmup=0.4), 10)
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1])


def test_a_cosine_falls_from_the_peak_towards_its_end() -> None:
    rates = curve(Cosine(warmup=0.0, final=0.2), 100)
    assert rates[0] == 1.0
    assert rates[50] == pytest.approx(0.6)
    assert rates[99] == pytest.approx(0.2, abs=1e-3)
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("schedule", [Constant(), Cosine(), Cosine(warmup=0.9), Constant(warmup=0.0)])
@pytest.mark.parametrize("n_steps", [1, 2, 7, 1000])
def test_no_step_has_a_rate_of_zero_or_above_the_peak(schedule: Schedule, n_steps: int) -> None:
    assert all(0 < rate <= 1 for rate in curve(schedule, n_steps))


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="expected warmup, a share of all steps, to be at least 0 and below 1, got 100"
    ):
        Cosine(warmup=100)
