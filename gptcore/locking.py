"""One process at a time: an OS lock on a file that also names its owner.

``flock`` is released by the kernel when its process ends, so a killed owner never blocks the next one, and no
lease has to run out. Only who holds a lock may remove its file, as the last thing it does with it: whoever waited
for it then has a file that is no longer there, notices, and takes the lock of the new one.
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
    descriptor = _open(path)
    try:
        _take(descriptor, path, wait=wait, purpose=purpose)
        while not _is_at(descriptor, path):
            os.close(descriptor)
            descriptor = _open(path)
            _take(descriptor, path, wait=wait, purpose=purpose)
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file now; one that does not exist is held by nobody."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove_if_free(path: Path) -> bool:
    """Remove a lock file that nobody holds; gives whether it was there and is gone."""
    if not path.exists():
        return False
    try:
        with hold(path, wait=False):
            path.unlink()
    except LockedError:
        return False
    return True


def owner(path: Path) -> str:
    """Who last took the lock, as text for a person: pid, host and start."""
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _open(path: Path) -> int:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


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
