"""Settings of fine-tuning for classification."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gptcore.config import Config, require_at_least
from gptcore.errors import ConfigError
from gptcore.readers import LongInputs
from gptcore.train import TrainConfig
from gptcore.transforms import Dropout


@dataclass(frozen=True)
class ClassifyStage(Config):
    """Fine-tuning of the base model for classification."""

    tune: Literal["head", "last_blocks", "all"] = "all"
    """What is trained."""
    n_blocks: int = 1
    """How many of the last blocks with ``last_blocks``."""
    long_inputs: LongInputs = "head"
    """Which part of a text longer than the context is read."""
    dropout: float | None = None
    """Dropout probability while fine-tuning; None keeps the base model's."""
    label_smoothing: float = 0.0
    """Share of the target's probability spread over all classes."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long and how."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only after the base model is trained."""
        require_at_least(self, n_blocks=0)
        if self.dropout is not None:
            Dropout(self.dropout)
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(f"classify.label_smoothing: expected at least 0 and below 1, got {self.label_smoothing}")
