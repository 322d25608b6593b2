"""Structured pruning: attention heads, inner neurons of the feed-forward layers, whole blocks; matrices get smaller.

Heads and neurons: the layer that reads them is fitted again by least squares to give what it gave before on calibration
text, and those go first whose loss this cannot make up for, a few at a time: Optimal Brain Surgeon's rule for groups of
inputs, as in "ZipLM", https://arxiv.org/abs/2302.04089. Blocks: those go whose output is most like their input,
"ShortGPT", https://arxiv.org/abs/2403.03853.

What is left is a plain model with other sizes: it loads, trains, quantizes and exports like any other.

Shapes: O outputs, I inputs, S inputs of one group (a head's width, or 1 for a neuron), N groups, C width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.compress.calibrate import Calibration, Moments
from gptcore.errors import ConfigError
from gptcore.models import Network, NetworkConfig, families, find_family
from gptcore.models.blueprint import require_plain
from gptcore.models.gpt import GPT, GPTConfig
from gptcore.nn.block import Block
from gptcore.nn.surgery import merge_adapters

_ROUNDS = 64
"""In so many rounds at most the groups of a layer are removed; scores are renewed after each."""
_DAMPING = 1e-4
"""Share of the covariance's mean diagonal that is added to it."""


def prunable(model: Network) -> GPT:
    """A model whose heads, neurons and blocks can be pruned; its updates are merged.

    Raises:
        ConfigError: nothing is known of how its family arranges them, or a layer is not plain.
    """
    prunable_sizes(model.config)
    merge_adapters(model)
    require_plain(model, what="pruning")
    return cast(GPT, model)


def prunable_sizes(config: NetworkConfig) -> GPTConfig:
    """The sizes of a model that can be pruned.

    Raises:
        ConfigError: nothing is known of how its family arranges heads and neurons.
    """
    family = find_family(config)
    if family is None or not family.can_be_pruned:
        known = ", ".join(each.config.__name__ for each in families() if each.can_be_pruned)
        raise ConfigError(f"{type(config).__name__} describes a model that cannot be pruned; only {known} can")
    return cast(GPTConfig, config)


@torch.no_grad()
def prune_heads(model: Network, calibration: Calibration, *, kept: int) -> GPT:
    """Keep so many heads in every block, in place, and say so in ``model.config``.

    Raises:
        ConfigError: there are not more heads than that, or the model is not ``prunable``.
    """
    gpt = prunable(model)
    config = gpt.config
    _check(kept, config.n_heads, what="heads")
    for block in gpt.blocks:
        attention = cast(Block, block).attention
        out = cast(nn.Linear, attention.out)
        chosen, smaller_out = _without(out, calibration.moments(block, out), n_groups=config.n_heads, kept=kept)
        qkv = cast(nn.Linear, attention.qkv)
        parts = [row.unflatten(0, (3, config.n_heads, config.head_size)) for row in _rows(qkv)]
        attention.qkv = _linear(*(part[:, chosen].flatten(0, 2) for part in parts))
        attention.out, attention.n_heads = smaller_out, kept
        calibration.advance(block)
    gpt.config = replace(config, n_heads=kept, head_width=config.head_size)
    return gpt


@torch.no_grad()
def prune_hidden(model: Network, calibration: Calibration, *, kept: int) -> GPT:
    """Keep so many neurons inside every feed-forward layer, in place, and say so in ``model.config``.

    Raises:
        ConfigError: there are not more neurons than that, or the model is not ``prunable``.
    """
    gpt = prunable(model)
    config = gpt.config
    _check(kept, config.hidden_size, what="hidden neurons")
    for block in gpt.blocks:
        layer = cast(Block, block).feedforward
        down = cast(nn.Linear, layer.down)
        chosen, layer.down = _without(down, calibration.moments(block, down), n_groups=config.hidden_size, kept=kept)
        layer.up = _linear(*(part[chosen] for part in _rows(cast(nn.Linear, layer.up))))
        calibration.advance(block)
    gpt.config = replace(config, hidden_width=kept)
    return gpt


@torch.no_grad()
def prune_blocks(model: Network, calibration: Calibration, *, kept: int) -> GPT:
    """Keep the ``kept`` blocks that change the residual stream most, in place, and say so in ``model.config``.

    Raises:
        ConfigError: there are not more blocks than that, or the model is not ``prunable``.
    """
    gpt = prunable(model)
    _check(kept, len(gpt.blocks), what="blocks")
    influence = []
    for block in gpt.blocks:
        before = [x for x, _ in calibration.calls]
        calibration.advance(block)
        alike = [
            F.cosine_similarity(x, y, dim=-1).flatten() for x, (y, _) in zip(before, calibration.calls, strict=True)
        ]
        influence.append(1.0 - float(torch.cat(alike).mean()))
    ranked = sorted(range(len(influence)), key=lambda i: -influence[i])[:kept]
    gpt.blocks = nn.ModuleList(gpt.blocks[i] for i in sorted(ranked))
    gpt.config = replace(gpt.config, n_layers=kept)
    return gpt


def smaller(config: GPTConfig, *, layers: float, width: float) -> GPTConfig:
    """Sizes of a student: shares of the blocks and of the width, at least one block and one head of the same width."""
    n_heads = max(1, round(config.n_heads * width))
    return replace(
        config,
        n_layers=max(1, round(config.n_layers * layers)),
        n_heads=n_heads,
        width=n_heads * config.head_size,
        head_width=None,
        hidden_width=None,
    )


def _check(kept: int, there: int, *, what: str) -> None:
    if not 0 < kept < there:
        raise ConfigError(f"{kept} {what} are to be kept of {there}; it must be at least 1 and fewer than there are")


def _without(layer: nn.Linear, moments: Moments, *, n_groups: int, kept: int) -> tuple[Tensor, nn.Linear]:
    """The groups (kept,) of inputs that stay, and the layer (O, kept * S) fitted to them."""
    covariance = moments.covariance
    damping = _DAMPING * covariance.diagonal().mean().clamp(min=1e-12)
    inverse = torch.linalg.inv(covariance + damping * torch.eye(len(covariance), dtype=torch.float64))
    weight = layer.weight.double()
    fitted, alive = _removed(weight, inverse, n_groups=n_groups, kept=kept)
    chosen = alive.nonzero().squeeze(1)
    inputs = torch.arange(weight.shape[1]).view(n_groups, -1)[chosen].flatten()
    mean = moments.total.double() / moments.n
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.double()
    bias = bias + weight @ mean - fitted[:, inputs] @ mean[inputs]  # the mean of what is gone
    return chosen, _linear(fitted[:, inputs].float(), bias.float())


def _removed(weight: Tensor, inverse: Tensor, *, n_groups: int, kept: int) -> tuple[Tensor, Tensor]:
    """The weights (O, I) with the removed inputs' columns 0 and the others fitted, and which groups (N,) are left."""
    size = weight.shape[1] // n_groups
    weight, inverse = weight.clone(), inverse.clone()
    alive = torch.ones(n_groups, dtype=torch.bool)
    places = torch.arange(n_groups)
    at_once = max(1, n_groups // _ROUNDS)
    while int(alive.sum()) > kept:
        own = inverse.view(n_groups, size, n_groups, size)[places, :, places]  # (N, S, S)
        columns = weight.view(len(weight), n_groups, size).permute(1, 2, 0)  # (N, S, O)
        scores = (columns * torch.linalg.solve(own, columns)).sum(dim=(1, 2))
        n = min(at_once, int(alive.sum()) - kept)
        gone = scores.masked_fill(~alive, torch.inf).argsort(stable=True)[:n]
        alive[gone] = False
        inputs = torch.arange(weight.shape[1]).view(n_groups, size)[gone].flatten()
        step = torch.linalg.solve(inverse[inputs][:, inputs], inverse[inputs])  # (n * S, I)
        weight -= weight[:, inputs] @ step
        inverse -= inverse[:, inputs] @ step
        weight[:, inputs] = 0.0
        inverse[inputs, :], inverse[:, inputs] = 0.0, 0.0
        inverse[inputs, inputs] = 1.0
    return weight, alive


def _rows(layer: nn.Linear) -> tuple[Tensor, ...]:
    return (layer.weight,) if layer.bias is None else (layer.weight, layer.bias)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer
