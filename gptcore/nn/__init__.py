"""Layers: single device, no files, no I/O."""

from gptcore.nn.attention import CausalSelfAttention
from gptcore.nn.block import Block, FeedForward
from gptcore.nn.kv_cache import KVCache, LayerCache
from gptcore.nn.linear_loss import linear_cross_entropy
from gptcore.nn.surgery import count_parameters, freeze, named_linears, replace_modules

__all__ = [
    "Block",
    "CausalSelfAttention",
    "FeedForward",
    "KVCache",
    "LayerCache",
    "count_parameters",
    "freeze",
    "linear_cross_entropy",
    "named_linears",
    "replace_modules",
]
