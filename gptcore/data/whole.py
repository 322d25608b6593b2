"""Files and folders that appear whole or not at all.

Everything is written to ``<name>.tmp-<pid>`` beside its place, flushed to the disk and renamed. A full disk becomes an
``OutOfDiskError``; whatever goes wrong, nothing half-written is left.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gptcore.errors import OutOfDiskError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the name ``path`` when the block ends well.

    Raises:
        OutOfDiskError: the disk, a quota or a size limit is full.
    """
    beside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with _no_space_told(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                yield file
                synced(file)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name ``folder`` when the block ends well; an older one there is replaced.

    Raises:
        OutOfDiskError: the disk, a quota or a size limit is full.
    """
    beside = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    with _no_space_told(folder):
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            yield beside
            _swap(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def synced(file: BinaryIO) -> None:
    """Bring the file's bytes to the disk."""
    file.flush()
    os.fsync(file.fileno())


def _swap(new: Path, place: Path) -> None:
    old = place.with_name(f"{place.name}.old-{os.getpid()}")
    if place.exists():
        place.replace(old)
    new.replace(place)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _no_space_told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        there = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
        free = shutil.disk_usage(there).free
        raise OutOfDiskError(
            f"{path} could not be written: {error.strerror} ({free:,} bytes free on its disk); nothing half-written "
            "was left. Free some space, or choose another folder, and run the same command again"
        ) from error
