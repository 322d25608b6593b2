"""Attention against the formula written out, and against torch's own module.

Shapes: B rows, T positions, C width, H heads, D = C / H.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.nn import CausalSelfAttention

B, T, C, H = 3, 7, 16, 4


def written_out(layer: CausalSelfAttention, x: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V with a triangular mask, one head at a time."""
    queries, keys, values = layer.qkv(x).split(C, dim=-1)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    heads = []
    for start in range(0, C, C // H):
        part = slice(start, start + C // H)
        scores = queries[..., part] @ keys[..., part].transpose(1, 2) / (C // H) ** 0.5
        heads.append(scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1) @ values[..., part])
    mixed: Tensor = layer.out(torch.cat(heads, dim=-1))
    return mixed


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_attention_equals_the_written_out_softmax(qkv_bias: bool) -> None:
    layer = CausalSelfAttention(width=C, n_heads=H, qkv_bias=qkv_bias)
    x = torch.randn(B, T, C)
    assert torch.allclose(layer(x), written_out(layer, x), atol=1e-6)


def test_attention_equals_torchs_multihead_attention() -> None:
    layer, reference = CausalSelfAttention(width=C, n_heads=H), nn.MultiheadAttention(C, H, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(layer.qkv.weight)
        reference.in_proj_bias.copy_(layer.qkv.bias)
        reference.out_proj.weight.copy_(layer.out.weight)
        reference.out_proj.bias.copy_(layer.out.bias)
    x = torch.randn(B, T, C)
    mask = nn.Transformer.generate_square_subsequent_mask(T)
    expected, _ = reference(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_a_position_never_sees_what_comes_later() -> None:
    layer = CausalSelfAttention(width=C, n_heads=H)
    x = torch.randn(1, T, C)
    changed = x.clone()
    changed[:, 4:] += 1.0
    assert torch.equal(layer(x)[:, :4], layer(changed)[:, :4])
    assert not torch.allclose(layer(x)[:, 4:], layer(changed)[:, 4:])


def test_dropout_acts_in_training_only() -> None:
    layer = CausalSelfAttention(width=C, n_heads=H, dropout=0.5)
    x = torch.randn(B, T, C)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="width 10 is not a multiple of n_heads 4"):
        CausalSelfAttention(width=10, n_heads=4)
