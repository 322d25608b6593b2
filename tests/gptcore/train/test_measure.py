"""The clock of the steps on a clock of its own, the metrics of a real run, and the energy meter's place in it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Literal

import pytest

from gptcore.errors import InterruptedRun
from gptcore.models.work import Work
from gptcore.train import MemoryLogger, Progress
from gptcore.train.measure import StepClock


class Seconds:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def one_step(clock: StepClock, time: Seconds, *, wait: float, compute: float, other: float) -> None:
    with clock.time_wait():
        time.pass_by(wait)
    with clock.time_compute():
        time.pass_by(compute / 2)
    time.pass_by(other)
    with clock.time_compute():
        time.pass_by(compute / 2)
    clock.add(n_tokens=100, n_items=50, n_rows=10)


def test_shares_and_rates_are_those_of_the_steps_since_the_last_reading() -> None:
    time = Seconds()
    clock = StepClock(Work(per_token=1e6, per_item=2e6, per_pair=1e4), now=time)
    clock.start(ceiling=1e9)
    one_step(clock, time, wait=1.0, compute=2.0, other=1.0)
    with clock.pause():
        time.pass_by(50.0)
    one_step(clock, time, wait=0.0, compute=4.0, other=0.0)
    flop = 100 * 1e6 + 50 * 2e6 + 100 * 10 * 1e4
    expected = {
        "perf/tokens_per_second": 200 / 8,
        "perf/data_wait_share": 1 / 8,
        "perf/overhead_share": 2 / 8,
        "perf/mfu": 2 * flop / 8 / 1e9,
    }
    assert clock.read() == pytest.approx(expected)
    one_step(clock, time, wait=0.0, compute=2.0, other=0.0)
    assert clock.read()["perf/tokens_per_second"] == pytest.approx(50)
    time.pass_by(7.0)  # the last evaluation, saving
    told = clock.summary()
    assert told["perf/tokens_per_second"] == pytest.approx(300 / 10)
    assert told["perf/overhead_share"] == pytest.approx(2 / 10)
    assert told["perf/mfu"] == pytest.approx(3 * flop / 10 / 1e9)
    assert told["perf/gemm_gflops"] == pytest.approx(1.0)
    assert told["perf/seconds"] == pytest.approx(4 + 50 + 4 + 2 + 7)
    assert told["perf/peak_rss_mb"] > 10


def test_a_run_without_steps_tells_no_rates() -> None:
    clock = StepClock(Work(1.0, 1.0, 1.0))
    clock.start(ceiling=1e9)
    assert clock.summary().keys() == {"perf/gemm_gflops", "perf/seconds", "perf/peak_rss_mb"}


def test_a_run_tells_where_its_time_goes_at_each_logged_step_and_in_all(prepared: Any, tmp_path: Path) -> None:
    log = MemoryLogger()
    result = prepared.run().execute(tmp_path / "out", log)
    for name in ("tokens_per_second", "data_wait_share", "overhead_share", "mfu"):
        series = log.series(f"perf/{name}")
        assert [step for step, _ in series] == [3, 6, 9, 12, None]
        assert series[-1][1] == result.metrics[f"perf/{name}"]
        assert all(0 < value < 1 for _, value in series) or name == "tokens_per_second"
    waits = log.series("perf/data_wait_share"), log.series("perf/overhead_share")
    assert all(wait < overhead for (_, wait), (_, overhead) in zip(*waits, strict=True))
    assert not any(name.startswith("perf/") for name in (tmp_path / "out/metrics.jsonl").read_text().split('"'))


class Meter:
    """A meter that counts its calls."""

    source: Literal["measured", "estimated"] = "measured"

    def __init__(self, kwh: float | None) -> None:
        self.kwh = kwh
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> float | None:
        self.calls.append("stop")
        return self.kwh


def test_the_energy_is_told_with_its_source_also_of_a_run_that_is_stopped(prepared: Any, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    for on_progress in (stop, None):
        log, meter = MemoryLogger(), Meter(0.25)
        if on_progress:
            with pytest.raises(InterruptedRun):
                prepared.run().execute(tmp_path / "out", log, on_progress=on_progress, meter=meter)
        else:
            prepared.run().execute(tmp_path / "out", log, meter=meter)
        assert meter.calls == ["start", "stop"]
        assert log.params["energy"] == "measured"
        assert log.series("perf/energy_kwh") == [(None, 0.25)]


def test_energy_that_is_not_known_is_not_told(prepared: Any, tmp_path: Path) -> None:
    log = MemoryLogger()
    prepared.run().execute(tmp_path / "out", log, meter=Meter(None))
    assert "energy" not in log.params
    assert log.series("perf/energy_kwh") == []
