"""Objective: how a batch becomes a loss."""

from __future__ import annotations

from dataclasses import dataclass

from gptcore.batch import Batch, Loss
from gptcore.config import Config
from gptcore.models.network import Network


@dataclass(frozen=True)
class Objective(Config):
    """Base of all objectives."""

    def count(self, batch: Batch) -> int:
        """The number of items the loss sums over, from the targets alone.

        The trainer adds it up over all micro-batches and processes before the first backward pass, so that any split
        of a batch gives the same gradient.
        """
        raise NotImplementedError

    def __call__(self, model: Network, batch: Batch) -> Loss:
        """The summed loss over ``count(batch)`` items."""
        raise NotImplementedError
