"""Settings of LoRA."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gptcore.config import Config
from gptcore.errors import ConfigError
from gptcore.train import TrainConfig
from gptcore.transforms import NF4, LoRA


@dataclass(frozen=True)
class LoraStage(Config):
    """Low-rank adaptation of the base model for both tasks."""

    rank: int = 8
    """Rank of the update."""
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout on the update's input."""
    targets: tuple[str, ...] = ("qkv", "out", "up", "down")
    """Linear layers of each block that are adapted."""
    also_train: tuple[str, ...] = ()
    """Modules trained in full beside the updates: ``token_embedding`` where the base hardly knows the task's words."""
    base_format: Literal["fp32", "nf4"] = "fp32"
    """Form of the frozen base: ``nf4`` takes an eighth of the memory (QLoRA); what ``also_train`` names stays fp32."""
    block_size: int = 64
    """Inputs that share a scale with ``nf4``."""
    classify: TrainConfig = field(default_factory=TrainConfig)
    """Training for classification."""
    instruct: TrainConfig = field(default_factory=TrainConfig)
    """Training for instructions."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only after the base model is trained."""
        LoRA(rank=self.rank, alpha=self.alpha, dropout=self.dropout)
        if self.base_format == "nf4":
            NF4(block_size=self.block_size)
        if not self.targets:
            raise ConfigError("lora.targets is empty; expected names of linear layers in the blocks, as in qkv,out")
