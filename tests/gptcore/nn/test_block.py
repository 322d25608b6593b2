"""The pre-norm block and its feed-forward layer, written out."""

from __future__ import annotations

import math

import torch

from gptcore.nn import Block, FeedForward


def test_the_feed_forward_layer_is_two_linears_around_tanh_gelu() -> None:
    layer = FeedForward(width=8)
    x = torch.randn(2, 3, 8)
    inner = layer.up(x)
    gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
    assert inner.shape == (2, 3, 32)
    assert torch.allclose(layer(x), layer.down(gelu), atol=1e-6)


def test_a_block_normalises_before_each_part_and_adds_its_result() -> None:
    block = Block(width=8, n_heads=2)
    x = torch.randn(2, 5, 8)
    after = x + block.attention(block.norm_1(x))
    assert torch.allclose(block(x), after + block.feedforward(block.norm_2(after)), atol=1e-6)
