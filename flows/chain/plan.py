"""What a run would do, without doing it: which outputs exist, and about what the others cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from flows.chain.engine import Chain
from flows.progress import progress_bar
from flows.settings import read_settings
from flows.stages.estimate import Estimate
from flows.stages.every import STAGES
from flows.stages.pipeline import Pipeline
from flows.stages.prepare.result import PrepareResult
from flows.stages.registry import Stage

_EFFICIENCY = 0.5
"""Share of the measured matrix-product rate that training of a small model reaches; an estimate, not a promise."""


class PlanLine(NamedTuple):
    """One stage of a plan."""

    stage: str
    state: str
    """``exists``, ``resumes`` (interrupted before), ``will run``, or ``left out`` and why."""
    cost: str
    """Estimated amounts; empty where there is nothing to do or nothing is known."""
    seconds: float
    """Estimated time on this machine's processors; 0 where there is nothing to do or nothing is known."""


def plan(config: Pipeline, name: str, *, data_dir: Path | None) -> list[PlanLine]:
    """The stages that ``name`` (a stage, or ``pipeline``) would need, in order."""
    chain = Chain(config, read_settings(), data_dir, progress_bar)
    wanted = list(STAGES) if name == "pipeline" else _list_needed(name)
    rate, estimate = _product_rate(), _estimate(chain)
    return [_line(chain, STAGES[stage], estimate, rate) for stage in STAGES if stage in wanted]


def _list_needed(name: str) -> list[str]:
    return [*(inner for need in STAGES[name].needs for inner in _list_needed(need)), name]


def _estimate(chain: Chain) -> Estimate:
    name = PrepareResult.stage
    entry = chain.store.find(name, chain.key(STAGES[name]))
    prepared = PrepareResult.from_dict(entry.result) if entry else None
    return Estimate(chain.pipeline, chain.places, prepared)


def _line(chain: Chain, stage: Stage, estimate: Estimate, rate: float) -> PlanLine:
    if (reason := chain.absence(stage)) is not None:
        return PlanLine(stage.name, f"left out: {reason}", "", 0.0)
    key = chain.key(stage)
    if chain.store.find(stage.name, key) is not None:
        return PlanLine(stage.name, "exists", "", 0.0)
    is_interrupted = chain.store.folder(stage.name, key).with_name(f"{key}.work").is_dir()
    state = "resumes where it stopped" if is_interrupted else "will run"
    if stage.cost is None:
        return PlanLine(stage.name, state, "", 0.0)
    cost = stage.cost(estimate)
    return PlanLine(stage.name, state, cost.words, cost.seconds + cost.operations / rate)


def duration(seconds: float) -> str:
    """An estimated time, no more exactly than it is known."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _product_rate() -> float:
    """Floating-point operations a second that training can expect here, from one short matrix product."""
    import torch

    a = torch.ones(512, 512)
    a @ a
    started = time.perf_counter()
    for _ in range(8):
        a @ a
    return _EFFICIENCY * 8 * 2 * 512**3 / (time.perf_counter() - started)
