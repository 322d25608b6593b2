"""Where and of what a figure was taken: commit, machine, interpreter. The standard library only."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from benchmarks.options import ROOT, cores


def commit() -> str:
    """The project's commit, and whether files differ from it."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return "unknown (not a git repository)"
    return head[:12] + (" with uncommitted changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def machine() -> str:
    """Processor, cores, vector width, memory, system, interpreter."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    vectors = next((label for flag, label in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in known), "")
    parts = [
        name[1] if name else platform.processor() or platform.machine(),
        f"{cores()} cores",
        vectors,
        f"{memory_gb():.0f} GB RAM",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
    ]
    return ", ".join(filter(None, parts))


def memory_gb() -> float:
    """Memory of the machine, in GB (10^9 bytes); 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return 0.0


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
