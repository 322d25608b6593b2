"""Model families; a family is a folder with ``model.py`` and the formats it can be written in."""

from gptcore.models.base import Memory, Model, ModelConfig, Seq2Seq
from gptcore.models.gpt import GPT, PRESETS, GPTConfig
from gptcore.models.llama import Llama, LlamaConfig
from gptcore.models.network import Ability, Network, NetworkConfig, WordNetwork, WordNetworkConfig
from gptcore.models.work import Work

__all__ = [
    "GPT",
    "PRESETS",
    "Ability",
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
]
