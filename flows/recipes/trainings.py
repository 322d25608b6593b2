"""How trainings of the presets are written down."""

from __future__ import annotations

from typing import cast

from gptcore.config import Config, set_by_path
from gptcore.train import Cosine, OptimizerConfig, TrainConfig


def train_config(lr: float, *, epochs: float, batch_size: int, eval_every: int, **rest: object) -> TrainConfig:
    """A training with a cosine schedule and a short warm-up; ``rest`` sets further fields by their dotted paths."""
    schedule = Cosine(warmup=0.05, final=0.05)
    base = TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=OptimizerConfig(lr=lr),
        schedule=schedule,
        eval_every=eval_every,
    )
    return cast(TrainConfig, _set_all(base, rest))


def _set_all(config: Config, changes: dict[str, object]) -> Config:
    for name, value in changes.items():
        config = set_by_path(config, name, value)
    return config
