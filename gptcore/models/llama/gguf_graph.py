"""The architecture ``llama`` computed as llama.cpp computes it, ``src/models/llama.cpp``.

Shapes: T positions, C width, H heads, K heads of keys and values, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptcore.models.gguf_graph import GGUFNumbers, attend, by_head, file_tensor


def gguf_features(file: GGUFNumbers, tokens: Tensor) -> Tensor:
    """Normalised features (T, C) of tokens (T,) int64, from the file alone.

    Raises:
        CheckpointError: a tensor or field is missing.
    """
    n_heads = int(file.number("llama.attention.head_count"))
    n_kv_heads = int(file.number("llama.attention.head_count_kv"))
    epsilon, base = file.number("llama.attention.layer_norm_rms_epsilon"), file.number("llama.rope.freq_base")
    size = int(file.number("llama.rope.dimension_count"))

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * file_tensor(file, f"{name}.weight")

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ file_tensor(file, f"{name}.weight").T

    turns = torch.arange(len(tokens))[:, None] * base ** (-torch.arange(0, size, 2) / size)  # (T, D / 2)

    def rotate(heads: Tensor) -> Tensor:
        """Neighbouring numbers are a point that is turned: ggml's ``normal`` order, not that of transformers."""
        pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2)).contiguous())  # (heads, T, D / 2)
        turned: Tensor = torch.view_as_real(pairs * torch.polar(torch.ones_like(turns), turns)).flatten(-2)
        return turned

    x = file_tensor(file, "token_embd.weight")[tokens]
    for i in range(int(file.number("llama.block_count"))):
        block = f"blk.{i}"
        y = norm(x, f"{block}.attn_norm")
        queries = rotate(by_head(linear(y, f"{block}.attn_q"), n_heads))
        keys = rotate(by_head(linear(y, f"{block}.attn_k"), n_kv_heads))
        values = by_head(linear(y, f"{block}.attn_v"), n_kv_heads)
        served = torch.arange(n_heads) // (n_heads // n_kv_heads)
        x = x + linear(attend(queries, keys[served], values[served]), f"{block}.attn_output")
        y = norm(x, f"{block}.ffn_norm")
        gate = linear(y, f"{block}.ffn_gate")
        x = x + linear(gate * torch.sigmoid(gate) * linear(y, f"{block}.ffn_up"), f"{block}.ffn_down")
    return norm(x, "output_norm")
