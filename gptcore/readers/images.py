"""ImageReader: pixels as bytes to the numbers that a network reads.

Shapes: S height and width, C channels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptcore.config import canonical_json, coerce
from gptcore.errors import ConfigError, DataError
from gptcore.files import read_json_object, write_json

_FILE = "reader.json"


@dataclass(frozen=True)
class ImageReader:
    """Square images of one size: each channel minus its mean, divided by its standard deviation.

    Raises:
        ConfigError: size or channels below 1, not one mean and deviation per channel, or one that is not finite, or a
            deviation that is not positive.
    """

    size: int
    """Height and width in pixels."""
    channels: int
    """1 for grey, 3 for red, green and blue."""
    mean: tuple[float, ...]
    """Of each channel, on the scale 0 to 1."""
    std: tuple[float, ...]
    """Of each channel, on the scale 0 to 1."""

    def __post_init__(self) -> None:
        """Refuse what no image could be read by."""
        for name in ("mean", "std"):  # 0 and 0.0 are one reader, with one digest
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if self.size < 1 or self.channels < 1:
            raise ConfigError(f"expected size and channels of at least 1, got {self.size} and {self.channels}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels or not all(map(math.isfinite, values)):
                raise ConfigError(f"expected {name} to be {self.channels} finite numbers, got {values}")
        if min(self.std) <= 0:
            raise ConfigError(f"expected std above 0, got {self.std}; a channel that is always the same tells nothing")

    @property
    def name(self) -> str:
        """Shown in messages."""
        return f"images-{self.size}x{self.size}x{self.channels}"

    @property
    def digest(self) -> str:
        """sha256 (hex) of all four settings."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()

    @property
    def limits(self) -> Mapping[str, int]:
        """``size`` and ``channels``."""
        return {"size": self.size, "channels": self.channels}

    def read(self, pixels: NDArray[np.uint8]) -> Tensor:
        """One image (S, S, C) uint8 to (C, S, S) fp32.

        Raises:
            DataError: another shape or dtype.
        """
        expected = (self.size, self.size, self.channels)
        if pixels.dtype != np.uint8 or pixels.shape != expected:
            raise DataError(
                f"expected an image of uint8 {expected}, got {pixels.dtype} {pixels.shape}; scale and convert it first"
            )
        mean, std = (torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1) for values in (self.mean, self.std))
        scaled = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255
        return (scaled - mean) / std

    def save(self, folder: Path) -> None:
        """Write ``reader.json`` into ``folder`` (made if missing).

        Raises:
            OutOfDiskError: the disk is full.
        """
        write_json(folder / _FILE, {"format": 1, **asdict(self), "digest": self.digest})

    @staticmethod
    def load(folder: Path) -> ImageReader:
        """Read a folder written by ``save``.

        Raises:
            DataError: the file is missing, damaged, or does not give the digest that was saved.
        """
        saved = read_json_object(folder / _FILE, DataError)
        try:
            reader = ImageReader(
                size=coerce(int, saved["size"], where="size"),
                channels=coerce(int, saved["channels"], where="channels"),
                mean=_numbers(saved, "mean"),
                std=_numbers(saved, "std"),
            )
        except (ConfigError, KeyError) as error:
            raise DataError(f"{folder / _FILE} is not an image reader's: {error}; copy the folder anew") from error
        if reader.digest != saved.get("digest"):
            raise DataError(
                f"image reader {folder} is damaged: expected digest {str(saved.get('digest'))[:12]}, got "
                f"{reader.digest[:12]}; copy the folder anew"
            )
        return reader


def _numbers(saved: dict[str, Any], name: str) -> tuple[float, ...]:
    values: tuple[float, ...] = coerce(tuple[float, ...], saved[name], where=name)
    return values
