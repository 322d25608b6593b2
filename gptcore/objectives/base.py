"""Objective: how a batch becomes a loss, which networks it fits, and what is measured with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from gptcore.batch import Batch, Loss
from gptcore.config import Config
from gptcore.data.base import Source
from gptcore.models.network import Network
from gptcore.nn.distill_loss import Mixture


@dataclass(frozen=True)
class Objective(Config):
    """Base of all objectives: ``weights``, ``counts`` and the call itself are theirs, the rest has defaults."""

    distillable: ClassVar[bool] = False
    """Whether ``distill`` is built."""

    def weights(self) -> dict[str, float]:
        """Each part of the loss by name, in a fixed order, with its weight: what is minimised is the sum over the parts
        of weight * sum of the part's losses / number of its items.
        """
        raise NotImplementedError

    def counts(self, batch: Batch) -> dict[str, int]:
        """The items (target tokens, rows) that each part sums over, from the targets alone; a missing part has none.

        The trainer adds them up over all micro-batches and processes before the first backward pass, so that any split
        of a batch gives the same gradient.
        """
        raise NotImplementedError

    def __call__(self, model: Network, batch: Batch) -> Loss:
        """The loss summed, part by part, over ``counts(batch)`` items."""
        raise NotImplementedError

    def figures(
        self, means: Mapping[str, float], sums: Mapping[str, float], counts: Mapping[str, int], source: Source
    ) -> dict[str, float]:
        """What is measured on held-out data beside the loss, by name.

        Args:
            means: mean loss per item of each part that has items, nats for a cross-entropy.
            sums: ``Loss.sums`` over the whole source.
            counts: items of the parts in ``means``.
            source: what was measured on.
        """
        del means, sums, counts, source
        return {}

    def fits(self, network: Network) -> None:
        """Refuse a network that cannot be trained for this; asked before anything is trained.

        Raises:
            ConfigError: says what is expected, what the network is, and what to do.
        """

    def distill(self, student: Network, teacher: Network, batch: Batch, mixture: Mixture) -> Loss:
        """The loss of a batch, mixed with the divergence from a teacher; where the objective is ``distillable``.

        Raises:
            ConfigError: the two cannot be compared.
        """
        raise NotImplementedError
