"""The Llama family."""

from gptcore.models.llama.model import Llama, LlamaConfig

__all__ = ["Llama", "LlamaConfig"]
