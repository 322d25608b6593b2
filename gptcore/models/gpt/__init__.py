"""The GPT-2 family."""

from gptcore.models.gpt.model import GPT, PRESETS, GPTConfig, initialise

__all__ = ["GPT", "PRESETS", "GPTConfig", "initialise"]
