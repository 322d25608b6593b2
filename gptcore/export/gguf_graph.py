"""Logits of a GGUF file, computed as llama.cpp computes them, from the file alone.

Written after llama.cpp's graphs (``src/models/gpt2.cpp``, ``src/models/llama.cpp``) and not after our models: neither
names, layouts nor layers are shared, so that a matrix which was transposed, permuted or left out cannot go unnoticed.

Shapes: T positions, C width, H heads, K heads of keys and values, D head width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gptcore.errors import CheckpointError
from gptcore.export.gguf_file import GGUFFile


def gguf_logits(file: GGUFFile, tokens: Sequence[int]) -> Tensor:
    """Logits (T, V) fp32 after each of the tokens, which are at least one and fit the context.

    Raises:
        CheckpointError: a tensor or field is missing, or the file describes another architecture.
    """
    architecture = file.fields.get("general.architecture")
    graphs: dict[object, Callable[[GGUFFile, Tensor], Tensor]] = {"gpt2": _gpt2, "llama": _llama}
    if architecture not in graphs:
        raise CheckpointError(f"general.architecture is {architecture!r}; only {', '.join(map(str, graphs))} is known")
    with torch.no_grad():
        x = graphs[architecture](file, torch.tensor(list(tokens)))  # (T, C)
        head = "output.weight" if "output.weight" in file.tensors else "token_embd.weight"
        return x @ _get(file, head).T


def _get(file: GGUFFile, name: str) -> Tensor:
    return torch.from_numpy(file.dense(name))


def _gpt2(file: GGUFFile, tokens: Tensor) -> Tensor:
    n_heads = int(file.number("gpt2.attention.head_count"))
    epsilon = file.number("gpt2.attention.layer_norm_epsilon")

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + epsilon).sqrt()
        return scaled * _get(file, f"{name}.weight") + _get(file, f"{name}.bias")

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ _get(file, f"{name}.weight").T + _get(file, f"{name}.bias")

    x = _get(file, "token_embd.weight")[tokens] + _get(file, "position_embd.weight")[: len(tokens)]
    for i in range(int(file.number("gpt2.block_count"))):
        block = f"blk.{i}"
        queries, keys, values = linear(norm(x, f"{block}.attn_norm"), f"{block}.attn_qkv").chunk(3, dim=-1)
        mixed = _attention(*(_by_head(part, n_heads) for part in (queries, keys, values)))
        x = x + linear(mixed, f"{block}.attn_output")
        inner = linear(norm(x, f"{block}.ffn_norm"), f"{block}.ffn_up")
        gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + linear(gelu, f"{block}.ffn_down")
    return norm(x, "output_norm")


def _llama(file: GGUFFile, tokens: Tensor) -> Tensor:
    n_heads = int(file.number("llama.attention.head_count"))
    n_kv_heads = int(file.number("llama.attention.head_count_kv"))
    epsilon, base = file.number("llama.attention.layer_norm_rms_epsilon"), file.number("llama.rope.freq_base")
    size = int(file.number("llama.rope.dimension_count"))

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * _get(file, f"{name}.weight")

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ _get(file, f"{name}.weight").T

    turns = torch.arange(len(tokens))[:, None] * base ** (-torch.arange(0, size, 2) / size)  # (T, D / 2)

    def rotate(heads: Tensor) -> Tensor:
        """Neighbouring numbers are a point that is turned: ggml's ``normal`` order, not that of transformers."""
        pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2)).contiguous())  # (heads, T, D / 2)
        turned: Tensor = torch.view_as_real(pairs * torch.polar(torch.ones_like(turns), turns)).flatten(-2)
        return turned

    x = _get(file, "token_embd.weight")[tokens]
    for i in range(int(file.number("llama.block_count"))):
        block = f"blk.{i}"
        y = norm(x, f"{block}.attn_norm")
        queries = rotate(_by_head(linear(y, f"{block}.attn_q"), n_heads))
        keys = rotate(_by_head(linear(y, f"{block}.attn_k"), n_kv_heads))
        values = _by_head(linear(y, f"{block}.attn_v"), n_kv_heads)
        served = torch.arange(n_heads) // (n_heads // n_kv_heads)
        x = x + linear(_attention(queries, keys[served], values[served]), f"{block}.attn_output")
        y = norm(x, f"{block}.ffn_norm")
        gate = linear(y, f"{block}.ffn_gate")
        x = x + linear(gate * torch.sigmoid(gate) * linear(y, f"{block}.ffn_up"), f"{block}.ffn_down")
    return norm(x, "output_norm")


def _by_head(x: Tensor, n_heads: int) -> Tensor:
    """(T, H * D) to (H, T, D)."""
    by_head: Tensor = x.unflatten(-1, (n_heads, -1)).transpose(0, 1)
    return by_head


def _attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(H, T, D) each to (T, H * D)."""
    scores = queries @ keys.transpose(1, 2) / math.sqrt(queries.shape[-1])  # (H, T, T)
    later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)
    return (weights @ values).transpose(0, 1).flatten(1)
