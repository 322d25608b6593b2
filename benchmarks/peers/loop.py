"""What the plain training loops of all peers share. Runs in litgpt's environment too: torch and the standard library.

Shapes: B rows, T positions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LEARNING_RATE, WEIGHT_DECAY, BETAS, CLIP = 6e-4, 0.1, (0.9, 0.95), 1.0
"""As ours has them by default."""


def adamw(parameters: Iterable[nn.Parameter], *, kind: str) -> torch.optim.AdamW:
    """AdamW over what is trained; ``kind`` is ``default`` or ``fused``."""
    trained = [p for p in parameters if p.requires_grad]
    fused = True if kind == "fused" else None
    return torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=fused)


def update(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Backward pass, clipping, optimizer step."""
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def window_reader(folder: Path, *, length: int, batch_size: int, seed: int) -> Callable[[], Tensor]:
    """Reads (B, T) int64 random windows from the token shards that ours reads."""
    corpus = torch.from_file(
        str(folder / "train" / "shard-00000.bin"),
        size=(folder / "train" / "shard-00000.bin").stat().st_size // 2,
        dtype=torch.uint16,
    )
    generator = torch.Generator().manual_seed(seed)

    def read() -> Tensor:
        starts = torch.randint(0, len(corpus) - length, (batch_size,), generator=generator)
        return torch.stack([corpus[s : s + length].long() for s in starts.tolist()])

    return read


def facts_of(model: nn.Module, *, optimizer: str, **more: Any) -> dict[str, Any]:
    """What a reader must know of a peer."""
    counts = {
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "n_trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    preloaded = os.environ.get("LD_PRELOAD")
    return {
        **counts,
        **more,
        "optimizer": optimizer,
        "allocator": preloaded or "the system's, as it is by default",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
