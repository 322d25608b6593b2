"""Settings of LoRA."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from gptcore.config import Config, nearest
from gptcore.errors import ConfigError
from gptcore.models import GPTConfig
from gptcore.nn.surgery import find_linears
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
        known = _linear_layers()
        for target in self.targets:
            if target not in known:
                raise ConfigError(f"lora.targets names {target!r}, no linear layer of a block{nearest(target, known)}")
        if not self.targets:
            raise ConfigError(f"lora.targets is empty; name one or more of {', '.join(sorted(known))}")


@cache
def _linear_layers() -> set[str]:
    """The last names of the linear layers of a block, as LoRA addresses them."""
    smallest = GPTConfig(vocab_size=1, context_length=1, width=1, n_layers=1, n_heads=1).build()
    return {name.rpartition(".")[2] for name, _ in find_linears(smallest) if name.startswith("blocks.")}
