"""The architecture ``gpt2`` computed as llama.cpp computes it, ``src/models/gpt2.cpp``.

Shapes: T positions, C width, H heads, D head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gptcore.models.gguf_graph import GGUFNumbers, attend, by_head, file_tensor


def gguf_features(file: GGUFNumbers, tokens: Tensor) -> Tensor:
    """Normalised features (T, C) of tokens (T,) int64, from the file alone.

    Raises:
        CheckpointError: a tensor or field is missing.
    """
    n_heads = int(file.number("gpt2.attention.head_count"))
    epsilon = file.number("gpt2.attention.layer_norm_epsilon")

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + epsilon).sqrt()
        return scaled * file_tensor(file, f"{name}.weight") + file_tensor(file, f"{name}.bias")

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ file_tensor(file, f"{name}.weight").T + file_tensor(file, f"{name}.bias")

    x = file_tensor(file, "token_embd.weight")[tokens] + file_tensor(file, "position_embd.weight")[: len(tokens)]
    for i in range(int(file.number("gpt2.block_count"))):
        block = f"blk.{i}"
        queries, keys, values = linear(norm(x, f"{block}.attn_norm"), f"{block}.attn_qkv").chunk(3, dim=-1)
        mixed = attend(*(by_head(part, n_heads) for part in (queries, keys, values)))
        x = x + linear(mixed, f"{block}.attn_output")
        inner = linear(norm(x, f"{block}.ffn_norm"), f"{block}.ffn_up")
        gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + linear(gelu, f"{block}.ffn_down")
    return norm(x, "output_norm")
