"""Let a model's layers use the kernels, from outside: names, parameters and saved form stay what they are.

A layer's ``forward`` is shadowed on the instance by a ``KernelLinear``, a GPT's ``features`` by a ``Continuation``;
both hand back to the class's own method whatever the kernels do not do (gradients, other dtypes and devices, long
inputs).

Shapes: B sequences, T new positions, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.kernels.native import Blocks, BlockWeights, Native, Weights, load_kernels
from gptcore.models import find_family
from gptcore.models.gpt import GPT
from gptcore.models.network import Network
from gptcore.nn.attention import CausalSelfAttention
from gptcore.nn.block import Block, FeedForward
from gptcore.nn.kv_cache import KVCache
from gptcore.transforms.quantize import QuantizedLinear

MOST_ROWS_FP32 = 64
"""Rows up to which an fp32 product is made here; with more, torch's own product is faster."""
MOST_NEW_POSITIONS = 16
"""New positions of a sequence up to which whole blocks are computed here; beyond, attention in tiles is faster."""
LAYOUT = "gpt2"
"""The arrangement of blocks that the kernels know."""
AnyNetwork = TypeVar("AnyNetwork", bound=Network)


class KernelLinear:
    """In the place of a linear layer's ``forward``."""

    def __init__(self, layer: nn.Module, weights: Weights, *, kernels: Native) -> None:
        """Keep the layer for what the kernels do not do."""
        self.layer, self.weights, self.kernels = layer, weights, kernels
        self.narrow = _is_narrow(layer)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., I) to (..., O)."""
        few = self.weights.bits < 32 or x.numel() <= MOST_ROWS_FP32 * self.weights.n_inputs
        if few and _is_plain(x):
            return self.kernels.linear(self.weights, x, narrow=self.narrow)
        return cast(Tensor, type(self.layer).forward(self.layer, x))


class Continuation:
    """In the place of a GPT's ``features``: all blocks of a decoding step in one call.

    A position's features are the same to the last bit whatever other sequences, and however many new positions of its
    own sequence, are computed beside it.
    """

    def __init__(self, model: GPT, blocks: Blocks, *, kernels: Native, narrow: bool) -> None:
        """Keep the model for what the kernels do not do."""
        self.model, self.blocks, self.kernels, self.narrow = model, blocks, kernels, narrow

    def __call__(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        lengths: Sequence[int] | None = None,
        packed: bool = False,
    ) -> Tensor:
        """As ``GPT.features``."""
        model = self.model
        if cache is None or not self._fits(tokens, cache):
            return type(model).features(model, tokens, cache=cache, lengths=lengths, packed=packed)
        positions = cache.positions(tokens.shape[1])  # (B, T)
        x: Tensor = model.token_embedding(tokens) + model.position_embedding(positions)
        self.kernels.blocks(self.blocks, x, caches=cache.layers, positions=positions, narrow=self.narrow)
        y: Tensor = model.norm(x)
        return y

    def _fits(self, tokens: Tensor, cache: KVCache) -> bool:
        keys, values = cache.layers[0].keys, cache.layers[0].values
        return (
            tokens.numel() > 0
            and tokens.shape[1] <= MOST_NEW_POSITIONS
            and int(cache.lengths.max()) + tokens.shape[1] <= cache.capacity
            and not self.model.training
            and _is_plain(keys)
            and keys.stride() == values.stride()
            and keys.stride()[2:] == (self.blocks.head_width, 1)
        )


def prepare_for_inference(model: AnyNetwork) -> AnyNetwork:
    """Make a model fast at inference on the CPU, in place; where there is no compiler it stays as it is.

    Weights that are changed in place afterwards are seen; tensors that are put in the place of others (``to``, a layer
    replaced) are not: call it again then. Training and saving are as before.

    Args:
        model: with its weights loaded, transformed as it will be used.

    Returns:
        The same model.
    """
    kernels = load_kernels()
    if kernels is None:
        return model
    found: dict[nn.Module, Weights] = {}
    for layer in model.modules():
        weights = _weights(layer)
        if weights is not None:
            found[layer] = weights
            _shadow(layer, "forward", KernelLinear(layer, weights, kernels=kernels))
    family = find_family(model)
    if family is not None and family.layout == LAYOUT:
        blocks = [_block_weights(block, found) for block in model.blocks]
        whole = [block for block in blocks if block is not None]
        alike = {_is_narrow(layer) for block in model.blocks for layer in block.modules() if layer in found}
        if len(whole) == len(blocks) and len({block.shape for block in whole}) == len(alike) == 1:
            step = Continuation(cast(GPT, model), Blocks(whole), kernels=kernels, narrow=alike.pop())
            _shadow(model, "features", step)
    return model


def is_prepared(model: nn.Module) -> bool:
    """Whether ``prepare_for_inference`` has given the kernels to any layer of the model."""
    return any(isinstance(vars(layer).get("forward"), KernelLinear) for layer in model.modules())


def _shadow(module: nn.Module, name: str, by: Any) -> None:
    object.__setattr__(module, name, by)  # past nn.Module's bookkeeping, which would look into it


def _is_narrow(layer: nn.Module) -> bool:
    """Whether the layer rounds its inputs to int16."""
    return type(layer) is QuantizedLinear and layer.narrow


def _weights(layer: nn.Module) -> Weights | None:
    try:
        if type(layer) is nn.Linear:
            return Weights(layer.weight, layer.bias)
        if type(layer) is QuantizedLinear:
            return Weights(layer.matrix, layer.bias)
    except ConfigError:  # another dtype, device or layout: the layer stays as it is
        return None
    return None


def _block_weights(block: nn.Module, found: dict[nn.Module, Weights]) -> BlockWeights | None:
    """The block's parts if it is GPT-2's own and all of its layers are known to the kernels."""
    if type(block) is not Block:
        return None
    attention, feedforward = block.attention, block.feedforward
    if type(attention) is not CausalSelfAttention or type(feedforward) is not FeedForward:
        return None
    norms = (block.norm_1, block.norm_2)
    if not (isinstance(norms[0], nn.LayerNorm) and isinstance(norms[1], nn.LayerNorm)):
        return None
    layers = (attention.qkv, attention.out, feedforward.up, feedforward.down)
    if any(layer not in found for layer in layers):
        return None
    qkv, out, up, down = (found[layer] for layer in layers)
    return BlockWeights(norms[0], norms[1], qkv, out, up, down, attention.n_heads)


def _is_plain(x: Tensor) -> bool:
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )
