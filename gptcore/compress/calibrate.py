"""What goes into each linear layer of a model when it reads calibration text.

Block by block: only the residual stream in front of one block and the sums over one layer's inputs are held at a time,
however deep the model is. A layer sees the outputs of the layers before it as these are now, so that each one that is
changed is judged with the errors of those changed before it (GPTQ's "true sequential" order).

Shapes: N calibration positions, C width, I inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gptcore.data.base import Source
from gptcore.errors import ConfigError
from gptcore.models.network import Network, as_words
from gptcore.nn.surgery import find_linears


class Moments(NamedTuple):
    """Sums over a layer's inputs x (N, I)."""

    n: int
    """Positions N."""
    total: Tensor
    """(I,) fp32: the sum of x."""
    gram: Tensor
    """(I, I) fp32: x^T x; half of GPTQ's Hessian."""

    @property
    def covariance(self) -> Tensor:
        """(I, I) fp64."""
        mean = self.total.double() / self.n
        return self.gram.double() / self.n - mean[:, None] * mean[None, :]


class _Seen(Exception):
    """Ends a forward pass whose rest is not needed."""


@dataclass
class Calibration:
    """The calls that the next block will get, one per batch."""

    calls: list[tuple[Tensor, dict[str, Any]]]
    """The residual stream in front of it (B, T, C), and the block's keywords."""

    @torch.no_grad()
    def moments(self, block: nn.Module, layer: nn.Module) -> Moments:
        """The sums over the inputs of ``layer``, which is a part of ``block``."""
        found: list[Moments] = []

        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2).float()  # (B * T, I)
            if not found:
                width = x.shape[1]
                found.append(Moments(0, x.new_zeros(width), x.new_zeros(width, width)))
            before = found[0]
            found[0] = Moments(before.n + len(x), before.total + x.sum(0), before.gram.addmm_(x.T, x))
            raise _Seen

        hook = layer.register_forward_pre_hook(look)
        try:
            for x, keywords in self.calls:
                try:
                    block(x, **keywords)
                except _Seen:
                    continue
        finally:
            hook.remove()
        if not found:
            raise ConfigError("a layer is never used by its block; it cannot be calibrated")
        return found[0]

    @torch.no_grad()
    def advance(self, block: nn.Module) -> None:
        """Go through ``block``, as it is now, to what stands before the next one."""
        for i, (x, keywords) in enumerate(self.calls):
            self.calls[i] = (block(x, **keywords), keywords)

    def through(self, model: Network, change: Callable[[str, nn.Linear, Moments], nn.Module]) -> None:
        """Put ``change(name, layer, moments)`` in the place of every linear layer of the blocks, in their order.

        Args:
            model: the model that was calibrated.
            change: called with the layer's dotted name in the model.
        """
        for i, block in enumerate(model.blocks):
            for name, layer in list(find_linears(block)):
                changed = change(f"blocks.{i}.{name}", layer, self.moments(block, layer))
                parent, _, leaf = name.rpartition(".")
                setattr(block.get_submodule(parent), leaf, changed)
            self.advance(block)


@torch.no_grad()
def calibrate(model: Network, source: Source, *, n_samples: int, seed: int, batch_size: int = 8) -> Calibration:
    """What the first block of ``model`` gets from samples of ``source``; padding is left out.

    Args:
        model: in evaluation mode.
        source: the calibration text: data that the model was trained on, never what it is measured on.
        n_samples: how many; all, if there are fewer.
        seed: decides which.
        batch_size: samples in one forward pass.

    Raises:
        ConfigError: the model reads no text.
    """
    words = as_words(model, purpose="calibration on text")
    calls: list[tuple[Tensor, dict[str, Any]]] = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> None:
        calls.append((inputs[0], keywords))
        raise _Seen

    hook = model.blocks[0].register_forward_pre_hook(look, with_kwargs=True)
    chosen = source.order(epoch=0, seed=seed, batch_size=batch_size)[:n_samples]
    try:
        for start in range(0, len(chosen), batch_size):
            batch = source.batch(chosen[start : start + batch_size], packed=True)
            try:
                words.features(batch.inputs["tokens"], lengths=batch.lengths, packed=batch.packed)
            except _Seen:
                continue
    finally:
        hook.remove()
    return Calibration(calls)
