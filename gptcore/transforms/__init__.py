"""Model to model: a checkpoint names its transforms and replays them in order when it is loaded."""

from gptcore.transforms.adapter import Adapter, PeftPart, adapt, adapter_tensors
from gptcore.transforms.base import Head, Transform
from gptcore.transforms.classifier import Classifier
from gptcore.transforms.dropout import Dropout
from gptcore.transforms.lora import LoRA, LoRALinear
from gptcore.transforms.nf4 import NF4
from gptcore.transforms.quantize import Quantize, QuantizedEmbedding, QuantizedLinear, QuantizedMatrix
from gptcore.transforms.vocabulary import ExtendVocabulary

__all__ = [
    "NF4",
    "Adapter",
    "Classifier",
    "Dropout",
    "ExtendVocabulary",
    "Head",
    "LoRA",
    "LoRALinear",
    "PeftPart",
    "Quantize",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizedMatrix",
    "Transform",
    "adapt",
    "adapter_tensors",
]
