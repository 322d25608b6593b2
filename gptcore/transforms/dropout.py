"""Another dropout probability for fine-tuning than for pretraining: small labelled sets need more of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch.nn.modules.dropout import _DropoutNd

from gptcore.config import set_by_path
from gptcore.errors import ConfigError
from gptcore.models.network import Network, NetworkConfig
from gptcore.nn.linear import Adapted
from gptcore.transforms.base import Transform


@dataclass(frozen=True)
class Dropout(Transform):
    """Set the dropout probability of every module that has one."""

    probability: float = 0.1
    """At least 0, below 1."""

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if not 0.0 <= self.probability < 1.0:
            raise ConfigError(f"probability is {self.probability}; it must be at least 0 and below 1")

    def apply(self, model: Network) -> Network:
        """Set it wherever a module has a ``dropout`` probability or is a dropout of torch's; adapters keep their own.

        Raises:
            ConfigError: no module has dropout.
        """
        found = False
        for part in model.modules():
            if isinstance(part, _DropoutNd):
                part.p, found = self.probability, True
            elif not isinstance(part, Adapted) and isinstance(getattr(part, "dropout", None), float | int):
                part.dropout, found = self.probability, True  # type: ignore[assignment]
        if not found:
            raise ConfigError(
                f"a {type(model).__name__} has no module with dropout, so that a probability of {self.probability} "
                "would change nothing; leave Dropout out"
            )
        model.config = cast(NetworkConfig, set_by_path(model.config, "dropout", self.probability))
        return model
