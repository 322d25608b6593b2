"""Model families; a family is a folder with ``model.py``, its forms in other programs, and ``family.py``, which
registers it."""

from gptcore.models.base import Memory, Model, ModelConfig, Seq2Seq
from gptcore.models.family import Family, families, family_of, find_family, register_family
from gptcore.models.gpt import GPT, PRESETS, GPTConfig
from gptcore.models.llama import Llama, LlamaConfig
from gptcore.models.network import Ability, Network, NetworkConfig, WordNetwork, WordNetworkConfig
from gptcore.models.work import Work

__all__ = [
    "GPT",
    "PRESETS",
    "Ability",
    "Family",
    "GPTConfig",
    "Llama",
    "LlamaConfig",
    "Memory",
    "Model",
    "ModelConfig",
    "Network",
    "NetworkConfig",
    "Seq2Seq",
    "WordNetwork",
    "WordNetworkConfig",
    "Work",
    "families",
    "family_of",
    "find_family",
    "register_family",
]
