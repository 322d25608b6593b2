"""Layers: single device, no files, no I/O."""

from gptcore.nn.attention import CausalSelfAttention
from gptcore.nn.block import Block, FeedForward
from gptcore.nn.kv_cache import KVCache, LayerCache
from gptcore.nn.linear import Adapted, Fused, StandIn
from gptcore.nn.linear_loss import linear_cross_entropy
from gptcore.nn.surgery import (
    count_parameters,
    freeze,
    merge_adapters,
    named_linears,
    replace_modules,
    strip_adapters,
)

__all__ = [
    "Adapted",
    "Block",
    "CausalSelfAttention",
    "FeedForward",
    "Fused",
    "KVCache",
    "LayerCache",
    "StandIn",
    "count_parameters",
    "freeze",
    "linear_cross_entropy",
    "merge_adapters",
    "named_linears",
    "replace_modules",
    "strip_adapters",
]
