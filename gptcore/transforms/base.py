"""Transform: a change of a model's structure that can be written down and replayed."""

from __future__ import annotations

from dataclasses import dataclass

from gptcore.config import Config
from gptcore.models.network import Network


@dataclass(frozen=True)
class Transform(Config):
    """Base of all transforms."""

    def apply(self, model: Network) -> Network:
        """Change ``model`` in place and return it; new weights come from torch's global generator.

        Replaying on freshly built weights must give the same parameter names and shapes as on trained ones, so that
        a checkpoint's tensors fit afterwards. It also sets which parameters are trained.
        """
        raise NotImplementedError
