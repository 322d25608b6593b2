"""The GPT-2 family."""

from gptcore.models.gpt.family import FAMILY
from gptcore.models.gpt.model import GPT, PRESETS, GPTConfig, initialise

__all__ = ["FAMILY", "GPT", "PRESETS", "GPTConfig", "initialise"]
