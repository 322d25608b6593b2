"""GPT-2 as one object."""

from gptcore.models.family import Family, register_family
from gptcore.models.gpt.gguf import GGUF
from gptcore.models.gpt.hf import HF
from gptcore.models.gpt.model import GPT, GPTConfig

FAMILY = register_family(
    Family(name="gpt2", config=GPTConfig, network=GPT, hf=HF, gguf=GGUF, layout="gpt2", can_be_pruned=True)
)
