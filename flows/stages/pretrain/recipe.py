"""Settings of pretraining."""

from __future__ import annotations

from dataclasses import dataclass, field

from gptcore.config import Config
from gptcore.models import PRESETS, WordNetworkConfig
from gptcore.train import TrainConfig


@dataclass(frozen=True)
class PretrainStage(Config):
    """A base model on the corpus."""

    model: WordNetworkConfig = field(default_factory=lambda: PRESETS["micro"])
    """Sizes; ``vocab_size`` is taken from the tokenizer."""
    init: str | None = None
    """Start from a checkpoint folder, or ``hf:REPO`` for a GPT-2 on the Hugging Face hub, instead of random weights;
    with ``pretrain.train.steps=0`` it is taken as it is."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long and how."""
