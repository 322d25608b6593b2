"""What a run would do, without doing it: which outputs exist, and about what the others cost."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import NamedTuple

from flows.engine import Chain
from flows.progress import progress_bar
from flows.recipes import Pipeline
from flows.settings import read_settings
from flows.stages.registry import STAGES, Stage
from gptcore.models import GPTConfig
from gptcore.train import TrainConfig

_EFFICIENCY = 0.5
"""Share of the measured matrix-product rate that training of a small model reaches; an estimate, not a promise."""


class PlanLine(NamedTuple):
    """One stage of a plan."""

    stage: str
    state: str
    """``exists``, ``goes on`` (interrupted before), ``will run``, or ``left out`` (no rows)."""
    cost: str
    """Estimated tokens, operations and time; empty where it is not known or nothing to do."""


def plan(config: Pipeline, name: str, *, data_dir: Path | None) -> list[PlanLine]:
    """The stages that ``name`` (a stage, or ``pipeline``) would need, in order."""
    chain = Chain(config, read_settings(), data_dir, progress_bar)
    wanted = list(STAGES) if name == "pipeline" else _needed(name)
    rate = _product_rate()
    return [_line(chain, STAGES[stage], rate) for stage in STAGES if stage in wanted]


def _needed(name: str) -> list[str]:
    return [*(inner for need in STAGES[name].needs for inner in _needed(need)), name]


def _line(chain: Chain, stage: Stage, rate: float) -> PlanLine:
    if not chain.applies(stage):
        return PlanLine(stage.name, "left out: the data has no rows for it", "")
    key = chain.key(stage)
    if chain.store.find(stage.name, key) is not None:
        return PlanLine(stage.name, "exists", "")
    begun = chain.store.folder(stage.name, key).with_name(f"{key}.work").is_dir()
    return PlanLine(stage.name, "goes on where it stopped" if begun else "will run", _cost(chain, stage, rate))


def _cost(chain: Chain, stage: Stage, rate: float) -> str:
    prepared = chain.store.find("prepare-data", chain.key(STAGES["prepare-data"]))
    if stage.name in ("prepare-data", "quantize", "evaluate"):
        return ""
    if prepared is None:
        return "known once the data is prepared"
    facts, pipeline = prepared.result, chain.pipeline
    length = pipeline.pretrain.model.context_length
    rows = {part: facts[part]["rows"]["train"] for part in facts["parts"]}
    runs: list[tuple[int, TrainConfig]] = {
        "pretrain": [(facts["tokens"]["train"] // length, pipeline.pretrain.train)],
        "finetune-classifier": [(rows.get("classify", 0), pipeline.classify.train)],
        "finetune-instruct": [(rows.get("instruct", 0), pipeline.instruct.train)],
        "lora": [(rows.get("classify", 0), pipeline.lora.classify), (rows.get("instruct", 0), pipeline.lora.instruct)],
    }[stage.name]
    tokens = sum(_n_samples(n, train) for n, train in runs) * length
    operations = 6.0 * _n_parameters(pipeline.pretrain.model, facts["vocab_size"]) * tokens
    return f"up to {tokens / 1e6:.2f} M tokens, {operations / 1e12:.1f} TFLOP, {operations / rate / 60:.1f} min"


def _n_samples(n_rows: int, train: TrainConfig) -> int:
    if train.steps is not None:
        return train.steps * train.batch_size
    return math.ceil(train.epochs * n_rows)


def _n_parameters(model: GPTConfig, vocab_size: int) -> int:
    return 12 * model.n_layers * model.width**2 + vocab_size * model.width


def _product_rate() -> float:
    """Floating-point operations a second that training can expect here, from one short matrix product."""
    import torch

    a = torch.ones(512, 512)
    a @ a
    started = time.perf_counter()
    for _ in range(8):
        a @ a
    return _EFFICIENCY * 8 * 2 * 512**3 / (time.perf_counter() - started)
