"""Model families; a family is a folder with ``model.py``, its forms in other programs, and ``family.py``, which
registers it."""

from gptcore.models.base import Model, ModelConfig
from gptcore.models.family import Family, families, family_of, find_family, register_family
from gptcore.models.gpt import GPT, PRESETS, GPTConfig
from gptcore.models.llama import Llama, LlamaConfig

__all__ = [
    "GPT",
    "PRESETS",
    "Family",
    "GPTConfig",
    "Llama",
    "LlamaConfig",
    "Model",
    "ModelConfig",
    "families",
    "family_of",
    "find_family",
    "register_family",
]
