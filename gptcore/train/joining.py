"""Joining the processes that train together: one alone, or those that torchrun has started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from gptcore.errors import ConfigError
from gptcore.train.parallel import Kind, Parallel


@contextmanager
def join_group(kind: Kind) -> Iterator[Parallel]:
    """The ``Parallel`` of this process: one alone, or a member of the group that torchrun has started.

    Raises:
        ConfigError: ``kind`` is unknown.
    """
    if kind not in ("ddp", "fsdp"):
        raise ConfigError(f"expected parallel to be 'ddp' or 'fsdp', got {kind!r}")
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Parallel()
        return
    from gptcore.train.distributed import group  # a second and 50 MB that one process alone does not need

    with group(kind) as member:
        yield member
