"""Data that lives in the tests alone: windows with masked words and turned halves, drawn anew for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptcore.batch import IGNORED, Batch
from gptcore.data import STILL, Data, Draw, Source, TokenWindows


@dataclass(frozen=True)
class HiddenWindows(Data):
    """Windows in which some words are hidden, and of which some have their halves turned round.

    Targets: ``labels`` (B, T) int64, ``IGNORED`` where a word stands; ``turned`` (B,) int64: 0 or 1, and ``IGNORED``
    for the samples that are not asked, all but each ``asked``-th.
    """

    folder: Path
    """Token shards."""
    context_length: int
    """T."""
    share: float = 0.3
    """Of the words, how many are hidden."""
    asked: int = 1
    """Each so many-th sample is asked whether it was turned; 0 asks none."""

    def open(self) -> Source:
        """Open the windows."""
        return HiddenSource(TokenWindows(self.folder, self.context_length).open(), self)


class HiddenSource:
    """Masked windows; a ``Source``. Samples are those of the windows, and what is drawn is no part of them."""

    text_size = None

    def __init__(self, windows: Source, config: HiddenWindows) -> None:
        self.windows, self.config = windows, config

    def __getattr__(self, name: str) -> Any:
        return getattr(self.windows, name)

    def batch(self, indices: Sequence[int] | NDArray[np.int64], *, packed: bool = False, draw: Draw = STILL) -> Batch:
        """The samples, hidden and turned as ``draw`` says."""
        del packed
        drawn = [self.drawn(int(i), draw) for i in indices]
        tokens, labels, turned = (torch.stack(part) for part in zip(*drawn, strict=True))
        return Batch({"tokens": tokens}, {"labels": labels, "turned": turned}, n_tokens=tokens.numel())

    def drawn(self, sample: int, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs (T,), labels (T,) and () whether it was turned, of one sample."""
        words = self.windows.batch([sample]).inputs["tokens"][0]
        turned = int(draw.stream(sample, "turn").integers(2))
        words = words.roll(turned * (len(words) // 2))
        hidden = torch.from_numpy(draw.stream(sample, "mask").random(len(words)) < self.config.share)
        asked = self.config.asked and sample % self.config.asked == 0
        return words.where(~hidden, 0), words.where(hidden, IGNORED), torch.tensor(turned if asked else IGNORED)


@dataclass(frozen=True)
class MeasuredWindows(Data):
    """Windows with a number each; targets: ``values`` (B,) fp32, the share of even token ids."""

    folder: Path
    """Token shards."""
    context_length: int
    """T."""

    def open(self) -> Source:
        """Open the windows."""
        return MeasuredSource(TokenWindows(self.folder, self.context_length).open())


class MeasuredSource:
    """Windows with a number each; a ``Source``."""

    def __init__(self, windows: Source) -> None:
        self.windows = windows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.windows, name)

    def batch(self, indices: Sequence[int] | NDArray[np.int64], *, packed: bool = False, draw: Draw = STILL) -> Batch:
        """The samples with their numbers."""
        del packed, draw
        tokens = self.windows.batch(indices).inputs["tokens"]
        return Batch({"tokens": tokens}, {"values": (tokens % 2 == 0).float().mean(dim=1)}, n_tokens=tokens.numel())
