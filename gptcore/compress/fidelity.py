"""How far a compressed language model is from the original on held-out text.

The figures are those of llama.cpp's ``perplexity --kl-divergence`` (its tools/perplexity/README.md): perplexity, the
divergence of the original's next-token distribution from the compressed one's, and how often both have the same
likeliest token.

Shapes: B rows, T positions, C width, V vocabulary, N target positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptcore.data.base import Source
from gptcore.errors import ConfigError
from gptcore.models.network import Network, as_words
from gptcore.nn.linear_loss import CHUNK_ELEMENTS
from gptcore.objectives.next_token import target_rows


@dataclass(frozen=True)
class Fidelity:
    """A compressed model against the original, over all target positions."""

    n: int
    """Target positions."""
    loss: float
    """Mean cross-entropy of the compressed model, nats."""
    kl: float
    """Mean KL(original || compressed), nats."""
    kl_p99: float
    """Its 99th percentile: the places where the difference is felt."""
    same_top: float
    """Share of positions whose likeliest token is the original's."""

    @property
    def perplexity(self) -> float:
        """exp of the loss; infinite where that is beyond fp64."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def compare(
    original: Network, compressed: Network, source: Source, *, batch_size: int = 16, max_samples: int | None = None
) -> Fidelity:
    """Both models on the source, or on evenly spaced samples of it; logits are held for a few positions at a time.

    Raises:
        ConfigError: a model reads no text, or they do not have the same vocabulary.
    """
    before, after = (as_words(each, purpose="a comparison on text") for each in (original, compressed))
    original.eval()
    compressed.eval()
    n_samples = min(source.n_samples, max_samples or source.n_samples)
    chosen = np.linspace(0, source.n_samples - 1, n_samples).astype(np.int64)
    losses, divergences, same = 0.0, [], 0
    for start in range(0, n_samples, batch_size):
        batch = source.batch(chosen[start : start + batch_size])
        tokens, targets = batch.inputs["tokens"], batch.targets["labels"]
        theirs, labels = target_rows(before.features(tokens, lengths=batch.lengths), targets)
        ours, _ = target_rows(after.features(tokens, lengths=batch.lengths), targets)
        rows = max(1, CHUNK_ELEMENTS // before.config.vocab_size)
        for first in range(0, len(labels), rows):
            piece = slice(first, first + rows)
            loss, divergence, equal = _measure(
                original.head(theirs[piece]), compressed.head(ours[piece]), labels[piece]
            )
            losses, same = losses + loss, same + equal
            divergences.append(divergence)
    every = torch.cat(divergences) if divergences else torch.zeros(1)
    n = max(1, len(every))
    return Fidelity(len(every), losses / n, float(every.mean()), float(np.quantile(every.numpy(), 0.99)), same / n)


def _measure(theirs: Tensor, ours: Tensor, labels: Tensor) -> tuple[float, Tensor, int]:
    """Of some positions, from both logits (n, V): summed loss, divergences (n,) fp64, number of equal best tokens."""
    if theirs.shape != ours.shape:
        raise ConfigError(
            f"expected a model with {theirs.shape[1]} outputs, as the one it is compared with, got {ours.shape[1]}"
        )
    expected, log_probs = theirs.float().log_softmax(dim=1), ours.float().log_softmax(dim=1)
    divergence = (expected.exp() * (expected - log_probs)).sum(dim=1, dtype=torch.float64).clamp(min=0.0)
    loss = -log_probs.gather(1, labels[:, None]).sum(dtype=torch.float64)
    return float(loss), divergence, int((expected.argmax(dim=1) == log_probs.argmax(dim=1)).sum())


def resident_bytes(model: Network) -> int:
    """Bytes of all parameters and buffers in memory, shared ones once."""
    tensors = {id(tensor): tensor for part in (model.parameters(), model.buffers()) for tensor in part}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
