"""What a run reports while it trains and when it has ended."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Progress(NamedTuple):
    """What a progress bar shows."""

    step: int
    n_steps: int
    metrics: dict[str, float]


class TrainResult(NamedTuple):
    """What a finished run leaves."""

    path: Path
    """The checkpoint folder."""
    metrics: dict[str, float]
    """Summary metrics: final held-out figures, speed, memory."""
