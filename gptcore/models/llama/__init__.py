"""The Llama family."""

from gptcore.models.llama.family import FAMILY
from gptcore.models.llama.model import Llama, LlamaConfig

__all__ = ["FAMILY", "Llama", "LlamaConfig"]
