"""Keep freed memory in the process.

glibc gives every large block back to the system when it is freed and asks for it again at the next step: each page is
then faulted in anew, which costs a plain CPU training run up to a quarter of its speed. Two settings of its allocator
(mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD) keep the pages. Another allocator that the user has preloaded is left
alone.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MAPPED = 2**25
_LARGEST_KEPT = 2**31 - 1
_PRELOADED = ("tcmalloc", "jemalloc", "mimalloc")


def keep_freed_memory() -> str:
    """Set glibc's allocator to keep large freed blocks; safe to call again.

    Returns:
        Which allocator is active, for the log.
    """
    other = _preloaded()
    if other is not None:
        return f"{other} (preloaded)"
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return f"the system's ({sys.platform})"
    libc = ctypes.CDLL(None)
    kept = libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MAPPED) and libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_KEPT)
    return "glibc, freed memory kept" if kept else "glibc, defaults"


def _preloaded() -> str | None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    mapped = maps.read_text(encoding="utf-8", errors="replace")
    return next((name for name in _PRELOADED if f"lib{name}" in mapped), None)
