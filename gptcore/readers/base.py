"""Reader: what turns raw input into numbers, identified by a digest and saved beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Reader(Protocol):
    """A tokenizer, or an image reader."""

    @property
    def name(self) -> str:
        """Shown in messages; not part of the identity."""
        ...

    @property
    def digest(self) -> str:
        """sha256 (hex) of everything that decides what is read."""
        ...

    @property
    def limits(self) -> Mapping[str, int]:
        """What a network must have room for: ``vocab_size``, or ``size`` and ``channels``."""
        ...

    def save(self, folder: Path) -> None:
        """Write it into ``folder`` (made if missing); a static ``load`` reads it back."""
        ...
