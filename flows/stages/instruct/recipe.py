"""Settings of fine-tuning for instructions."""

from __future__ import annotations

from dataclasses import dataclass, field

from gptcore.config import Config, require_at_least
from gptcore.data.templates import template_by_name
from gptcore.train import TrainConfig


@dataclass(frozen=True)
class InstructStage(Config):
    """Fine-tuning of the base model for instructions."""

    template: str = "alpaca"
    """Prompt template: alpaca, phi-3, chatml or short."""
    mask_prompt: bool = True
    """Whether only the response is a target."""
    max_new_tokens: int = 64
    """Longest generated response, in tokens."""
    max_responses: int = 110
    """Held-out prompts that are answered."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long and how."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only after the base model is trained."""
        template_by_name(self.template)
        require_at_least(self, max_new_tokens=1, max_responses=1)
