"""Model families; a family is a folder with ``model.py`` and the formats it can be written in."""

from gptcore.models.base import Model, ModelConfig
from gptcore.models.gpt import GPT, PRESETS, GPTConfig
from gptcore.models.llama import Llama, LlamaConfig

__all__ = ["GPT", "PRESETS", "GPTConfig", "Llama", "LlamaConfig", "Model", "ModelConfig"]
