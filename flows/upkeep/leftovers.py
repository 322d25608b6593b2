"""Files that a killed process has left half-written, and locks of nothing."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from flows.settings import Settings
from flows.store import StageStore
from flows.upkeep.findings import Report
from gptcore.locking import is_held, remove_if_free

_PARTIAL = re.compile(r"\.tmp-(\d+)$")
_REPLACED = re.compile(r"^([0-9a-f]{16})\.replaced-\d+$")
_SECONDS_TO_WRITE = 3600.0


def clear(settings: Settings, report: Report) -> None:
    """Remove them; what a process may still be writing is left alone."""
    store = StageStore(settings.store)
    for path in sorted(_partials(settings.home)):
        if not _may_be_written(path, store):
            _remove(path, report, found="half-written, and its process is gone")
    for path in sorted(settings.store.glob("*/*.replaced-*")):
        match = _REPLACED.match(path.name)
        if match and not is_held(store.lock(path.parent.name, match.group(1))):
            _remove(path, report, found="replaced by a new output, and not yet removed")
    for lock in sorted([*settings.store.glob("*/*.lock"), *(settings.home / "running").glob("*.lock")]):
        beside = [lock.with_suffix(""), lock.with_suffix(".work")]
        if any(path.exists() for path in beside) or is_held(lock):
            continue
        if report.dry_run or remove_if_free(lock):
            name = str(lock.relative_to(settings.home))
            report.add("lock", name, found="held by no process, and for no output", done="removed")


def remove_tree(path: Path) -> None:
    """Remove a file or folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _partials(home: Path) -> Iterator[Path]:
    for folder in (home / "store", home / "cache", home / "reports", home / "spool"):
        outer: Path | None = None
        for path in sorted(folder.rglob("*.tmp-*")):
            if outer is not None and outer in path.parents:
                continue  # goes with the folder that it is in
            if _PARTIAL.search(path.name):
                outer = path
                yield path


def _may_be_written(path: Path, store: StageStore) -> bool:
    """By the process that its name names, or by any within an hour: another machine's processes are not seen here."""
    match = _PARTIAL.search(path.name)
    assert match is not None
    inside = path.relative_to(store.root).parts if path.is_relative_to(store.root) else ()
    if len(inside) > 1 and is_held(store.lock(inside[0], inside[1].partition(".")[0])):
        return True
    if len(inside) > 2:
        return False  # whoever writes there holds the lock
    return psutil.pid_exists(int(match.group(1))) and time.time() - path.stat().st_mtime < _SECONDS_TO_WRITE


def _remove(path: Path, report: Report, *, found: str) -> None:
    if not report.dry_run:
        remove_tree(path)
    report.add("file", str(path), found=found, done="removed")
