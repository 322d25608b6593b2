"""Llama as one object."""

from gptcore.models.family import Family, register_family
from gptcore.models.llama.gguf import GGUF
from gptcore.models.llama.hf import HF
from gptcore.models.llama.model import Llama, LlamaConfig

FAMILY = register_family(Family(name="llama", config=LlamaConfig, network=Llama, hf=HF, gguf=GGUF))
