"""Learning-rate schedules: pure functions from the step to a multiplier of the peak rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gptcore.config import Config
from gptcore.errors import ConfigError


@dataclass(frozen=True)
class Schedule(Config):
    """Base of all schedules."""

    warmup: float = 0.05
    """Share of all steps over which the rate rises linearly from near zero."""

    def __post_init__(self) -> None:
        """Refuse a warm-up that would never end."""
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"expected warmup, a share of all steps, to be at least 0 and below 1, got {self.warmup}")

    def multiplier(self, step: int, *, n_steps: int) -> float:
        """The multiplier at ``step`` (0 is the first) of ``n_steps``, in (0, 1]."""
        n_warm = int(self.warmup * n_steps)
        if step < n_warm:
            return (step + 1) / (n_warm + 1)
        return self.after_warmup((step - n_warm) / max(1, n_steps - n_warm))

    def after_warmup(self, done: float) -> float:
        """The multiplier when the share ``done`` in [0, 1) of the rest has passed."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """Stays at the peak."""

    def after_warmup(self, done: float) -> float:
        """Always 1."""
        del done
        return 1.0


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the peak down to ``final``: "SGDR", https://arxiv.org/abs/1608.03983."""

    final: float = 0.1
    """The multiplier at the end."""

    def after_warmup(self, done: float) -> float:
        """Between 1 and ``final``."""
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * done))
