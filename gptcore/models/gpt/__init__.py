"""The GPT-2 family."""

from gptcore.models.gpt.model import GPT, PRESETS, GPTConfig

__all__ = ["GPT", "PRESETS", "GPTConfig"]
