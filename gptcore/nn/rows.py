"""Rows of different lengths in one tensor: padded on the right, or packed one after another.

Shapes: B rows, T positions, C width, N positions of all packed rows together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gptcore.errors import ConfigError


def resolve_rows(shape: torch.Size, lengths: Sequence[int] | None, *, packed: bool) -> Sequence[int] | None:
    """The lengths of packed rows; None for rows that stand apart.

    Args:
        shape: (B, T, ...), or packed (1, N, ...).
        lengths: positions of each row.
        packed: whether the rows stand one after another.

    Raises:
        ConfigError: the lengths are not those of the rows.
    """
    if packed:
        if not lengths or shape[0] != 1 or sum(lengths) != shape[1]:
            n = sum(lengths or ())
            raise ConfigError(
                f"expected packed rows of shape (1, {n}), as their lengths add up, got {tuple(shape[:2])}"
            )
        return lengths
    if lengths is not None and (len(lengths) != shape[0] or max(lengths) > shape[1]):
        raise ConfigError(
            f"expected {shape[0]} lengths of at most {shape[1]} positions, got {len(lengths)} of up to {max(lengths)}; "
            "rows that stand one after another are packed=True"
        )
    return None


def row_starts(lengths: Sequence[int], *, packed: bool, device: torch.device) -> Tensor:
    """(B,) int64: where each row's first position stands in it, or packed among all N."""
    sizes = torch.tensor(lengths, dtype=torch.int64, device=device)
    return sizes.cumsum(0) - sizes if packed else torch.zeros_like(sizes)


def row_ends(lengths: Sequence[int], *, packed: bool, device: torch.device) -> Tensor:
    """(B,) int64: where each row's last real position stands in it, or packed among all N."""
    sizes = torch.tensor(lengths, dtype=torch.int64, device=device)
    return (sizes.cumsum(0) if packed else sizes) - 1


def row_means(features: Tensor, lengths: Sequence[int] | None, *, packed: bool) -> Tensor:
    """The mean of each row's real positions, (B, T, C) or packed (1, N, C) to (B, C)."""
    if lengths is None:
        return features.mean(dim=1)
    rows = features[0].split(list(lengths)) if packed else [row[:n] for row, n in zip(features, lengths, strict=True)]
    return torch.stack([row.mean(dim=0) for row in rows])


def row_positions(lengths: Sequence[int], *, device: torch.device) -> Tensor:
    """(N,) int64: the place of each position in its own row, for packed rows."""
    return torch.cat([torch.arange(n, device=device) for n in lengths])
