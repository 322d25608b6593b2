"""What happens when the loss leaves its course: skip, roll back, stop.

An update whose loss or gradient is not finite, or whose loss lies far above the last ones, is skipped (after OLMo's
SkipStepOptimizer, https://github.com/allenai/OLMo-core). After several in a row the run goes back to its last
checkpoint and takes other data from there on, as PaLM did by hand (https://arxiv.org/abs/2204.02311, section 5.1).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gptcore.config import Config
from gptcore.errors import ConfigError


@dataclass(frozen=True)
class SpikePolicy(Config):
    """When an update is skipped, and what follows."""

    sigma: float | None = 6.0
    """Standard deviations above the mean of the last losses that make a spike; None skips only what is not finite."""
    window: int = 128
    """Good steps that mean and deviation are taken over; before there are as many, there is no spike."""
    patience: int = 8
    """Skipped updates in a row that roll the run back."""
    max_rollbacks: int = 3
    """Rollbacks after which the next one stops the run."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be."""
        if self.sigma is not None and not self.sigma > 0:
            raise ConfigError(f"sigma is {self.sigma}; it must be above 0, or none")
        for name, least in (("window", 2), ("patience", 1), ("max_rollbacks", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")

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
        mean, deviation = statistics.fmean(recent), statistics.pstdev(recent)
        if loss <= mean + self.sigma * deviation:
            return None
        return f"loss {loss:.4g} is more than {self.sigma:g} deviations ({deviation:.3g}) above the mean {mean:.4g}"

    def remember(self, recent: list[float], loss: float) -> None:
        """Add a good step's loss; only the last ``window`` are kept."""
        recent.append(loss)
        del recent[: -self.window]
