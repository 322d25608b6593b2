"""One process at a time: an OS lock on a file that also names its owner.

``flock`` is released by the kernel when its process ends, so a killed owner never blocks the next one, and no
lease has to run out. The lock file itself stays; removing it would let two processes lock two different files.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from gptcore.errors import LockedError
from gptcore.files import disk_errors

log = logging.getLogger(__name__)


@contextmanager
def hold(path: Path, *, wait: bool = True, purpose: str = "") -> Iterator[None]:
    """Hold the lock file at ``path`` for the duration of the block.

    Raises:
        LockedError: ``wait`` is False and another process holds it; the text names that process.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _take(descriptor, path, wait=wait, purpose=purpose)
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def owner(path: Path) -> str:
    """Who last took the lock, as text for a person: pid, host and start."""
    try:
        told = json.loads(path.read_text())
        return f"process {told['pid']} on {told['host']} since {told['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _take(descriptor: int, path: Path, *, wait: bool, purpose: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        what = purpose or str(path)
        if not wait:
            raise LockedError(
                f"{what} is in use by {owner(path)} (lock {path}); wait for it or stop it, then run again"
            ) from None
        log.warning("%s is in use by %s; waiting for it", what, owner(path))
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def _sign(descriptor: int) -> None:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    signature = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, signature.encode(), 0)
