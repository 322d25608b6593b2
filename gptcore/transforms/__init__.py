"""Model to model: a checkpoint names its transforms and replays them in order when it is loaded."""

from gptcore.transforms.base import Transform
from gptcore.transforms.classifier import Classifier
from gptcore.transforms.dropout import Dropout
from gptcore.transforms.lora import LoRA, LoRALinear, adapter_tensors, merge_lora
from gptcore.transforms.nf4 import NF4
from gptcore.transforms.quantize import Quantize, QuantizedEmbedding, QuantizedLinear, QuantizedMatrix
from gptcore.transforms.vocabulary import ExtendVocabulary

__all__ = [
    "NF4",
    "Classifier",
    "Dropout",
    "ExtendVocabulary",
    "LoRA",
    "LoRALinear",
    "Quantize",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizedMatrix",
    "Transform",
    "adapter_tensors",
    "merge_lora",
]
