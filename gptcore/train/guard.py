"""What happens when the loss leaves its course: skip, roll back, stop.

An update whose loss or gradient is not finite, or whose loss lies far above the last ones, is skipped (after OLMo's
SkipStepOptimizer, https://github.com/allenai/OLMo-core). Far is measured in the logarithm of the loss: around a large
loss that is the same, and around one near zero, as when classes are learned, a hard batch is not a spike. After several
in a row the run rolls back to its last checkpoint and takes other data from there on, as PaLM did by hand
(https://arxiv.org/abs/2204.02311, section 5.1).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gptcore.config import Config
from gptcore.errors import ConfigError

_SMALLEST = 1e-9
"""Nats; a loss of zero has no logarithm."""


@dataclass(frozen=True)
class SpikePolicy(Config):
    """When an update is skipped, and what follows."""

    sigma: float | None = 6.0
    """Standard deviations of the last losses' logarithms, above their mean, that make a spike; None skips only what is
    not finite."""
    window: int = 128
    """Good steps that mean and deviation are taken over; before there are as many, there is no spike."""
    patience: int = 8
    """Skipped updates in a row that roll the run back."""
    max_rollbacks: int = 3
    """Rollbacks after which the next one stops the run."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be."""
        if self.sigma is not None and not self.sigma > 0:
            raise ConfigError(f"expected sigma to be above 0, or none, got {self.sigma}")
        for name, least in (("window", 2), ("patience", 1), ("max_rollbacks", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"expected {name} to be at least {least}, got {getattr(self, name)}")

    def fault(self, loss: float, norm: float, *, recent: Sequence[float]) -> str | None:
        """Why the update must be skipped, or None.

        Args:
            loss: mean loss of the step, nats.
            norm: norm of its gradient before clipping.
            recent: the losses of the last good steps.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"loss ({loss:.4g}) or gradient norm ({norm:.4g}) is not finite"
        if self.sigma is None or len(recent) < self.window:
            return None
        logs = [math.log(max(value, _SMALLEST)) for value in recent]
        bound = math.exp(statistics.fmean(logs) + self.sigma * statistics.pstdev(logs))
        if loss <= bound:
            return None
        return f"loss {loss:.4g} is above {bound:.4g}, {self.sigma:g} deviations over the last {len(recent)} losses"

    def remember(self, recent: list[float], loss: float) -> None:
        """Add a good step's loss; only the last ``window`` are kept."""
        recent.append(loss)
        del recent[: -self.window]
