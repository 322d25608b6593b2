"""Keep freed memory in the process, but for the largest blocks.

glibc gives the end of its heap back to the system whenever it is free and asks for it again at the next step: each page
is then faulted in anew, which costs a plain CPU training run up to a quarter of its speed. M_TRIM_THRESHOLD keeps it.
Blocks from M_MMAP_THRESHOLD on are mapped one by one and leave no holes: kept in the heap, too, they would make GPT-2
124M up to a sixth faster and an eighth larger (mallopt(3)). Huge pages make up for half of that; glibc (2.35 and later)
asks for them only if it was set so when the process started. An allocator that the user has preloaded is left alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SMALLEST_MAPPED = 3_000_000
_LARGEST_KEPT = 2**31 - 1
_TUNABLES, _HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
_PRELOADED = ("tcmalloc", "jemalloc", "mimalloc")


def keep_freed_memory() -> str:
    """Set glibc's allocator to keep large freed blocks; safe to call again.

    Returns:
        Which allocator is active, for the log.
    """
    other = _find_preloaded()
    if other is not None:
        return f"{other} (preloaded)"
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return f"the system's ({sys.platform})"
    libc = ctypes.CDLL(None)
    kept = libc.mallopt(_M_MMAP_THRESHOLD, _SMALLEST_MAPPED) and libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_KEPT)
    huge = ", huge pages" if _HUGE_PAGES in os.environ.get(_TUNABLES, "") else ""
    return f"glibc, freed memory kept{huge}" if kept else "glibc, defaults"


def restart_with_huge_pages() -> None:
    """Start this program again, in the same process, with glibc's huge pages; returns where that cannot be or is so.

    Call it before anything else is done. Children inherit the setting.
    """
    if not _can_have_huge_pages() or _TUNABLES in os.environ:  # what the user has set stays as it is
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {_TUNABLES: _HUGE_PAGES})


def _can_have_huge_pages() -> bool:
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35) or _find_preloaded() is not None:
        return False
    choice = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return choice.exists() and "[madvise]" in choice.read_text(encoding="ascii")


def _find_preloaded() -> str | None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    mapped = maps.read_text(encoding="utf-8", errors="replace")
    return next((name for name in _PRELOADED if f"lib{name}" in mapped), None)
