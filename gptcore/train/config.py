"""TrainConfig: how long and how to train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gptcore.config import Config
from gptcore.errors import ConfigError
from gptcore.train.guard import SpikePolicy
from gptcore.train.optim import OptimizerConfig
from gptcore.train.schedule import Cosine, Schedule

Precision = Literal["fp32", "bf16", "fp16"]
"""Numbers of the matrix products; weights, gradients' sums and the optimizer stay fp32."""


@dataclass(frozen=True)
class TrainConfig(Config):
    """How long and how to train."""

    epochs: float = 1.0
    """Passes over the data; ignored where ``steps`` is set."""
    steps: int | None = None
    """Optimizer steps; None takes ``epochs``, 0 only measures and saves."""
    batch_size: int = 16
    """Samples per optimizer step, over all processes."""
    micro_batch_size: int | None = None
    """Samples per forward pass of one process; None takes its whole share. Changes memory and speed, not the result."""
    packed: bool = False
    """Whether rows stand one after another without padding. Changes memory and speed, not the result."""
    precision: Precision = "fp32"
    """Numbers of the matrix products: ``bf16`` or ``fp16`` where the device is fast in them."""
    checkpoint_activations: bool = False
    """Whether each block's activations are computed again in the backward pass: less memory, a third more time."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer settings."""
    schedule: Schedule = field(default_factory=Cosine)
    """Learning rate over time."""
    clip: float = 1.0
    """Largest norm of the gradient; above, it is scaled down."""
    spikes: SpikePolicy = field(default_factory=SpikePolicy)
    """What happens when the loss leaves its course."""
    keep: str = "best"
    """Which weights a finished run leaves: ``best`` by held-out loss, or ``last``."""
    eval_every: int = 50
    """Steps between held-out evaluations; the last step is always evaluated."""
    eval_samples: int | None = 256
    """Held-out samples of the evaluations on the way; None takes all. The final figure is always over all."""
    log_every: int = 10
    """Steps between logged lines."""
    checkpoint_every: int = 200
    """Steps between checkpoints to resume from."""
    keep_last: int = 2
    """How many of these are kept."""
    keep_every: int | None = None
    """Steps between checkpoints that stay when the run has ended; a multiple of ``checkpoint_every``."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts that are continued greedily at each evaluation and kept in samples.jsonl."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be."""
        for name in ("batch_size", "eval_every", "log_every", "checkpoint_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 0:
            raise ConfigError(f"expected steps to be at least 0, or none, got {self.steps}")
        for name in ("micro_batch_size", "eval_samples", "keep_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"expected {name} to be at least 1, or none, got {value}")
        if self.keep_every is not None and self.keep_every % self.checkpoint_every:
            raise ConfigError(
                f"expected keep_every to be a multiple of checkpoint_every ({self.checkpoint_every}), "
                f"got {self.keep_every}"
            )
        for name in ("epochs", "clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"expected {name} to be above 0, got {getattr(self, name)}")
        if self.keep not in ("best", "last"):
            raise ConfigError(f"expected keep to be 'best' or 'last', got {self.keep!r}")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ConfigError(f"expected precision to be 'fp32', 'bf16' or 'fp16', got {self.precision!r}")


RUNTIME = (
    "micro_batch_size",
    "packed",
    "checkpoint_activations",
    "log_every",
    "checkpoint_every",
    "keep_last",
    "keep_every",
)
"""Fields that may change between two starts of one run."""
