"""Freed memory stays in the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource
import torch
from gptcore.allocator import keep_freed_memory
print(keep_freed_memory())
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    parts = [torch.ones(500_000) for _ in range(64)]  # 2 MB each, all freed at the end
    del parts
work(); work()
before = faults()
for _ in range(10):
    work()
print(faults() - before)
print(10 * 64 * 500_000 * 4 // resource.getpagesize())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives freed memory back at once")
def test_freed_blocks_are_not_faulted_in_again_at_each_step() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    name, faults, touched = done.stdout.splitlines()
    assert name == "glibc, freed memory kept"
    assert int(faults) < 0.1 * int(touched)


def test_a_program_starts_again_with_huge_pages_once_and_with_its_own_arguments() -> None:
    program = "import os, sys; from gptcore.allocator import restart_with_huge_pages as again; again(); " + (
        "print(os.environ.get('GLIBC_TUNABLES'), sys.argv[1:])"
    )

    def told(**environment: str) -> str:
        kept = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        command = [sys.executable, "-c", program, "a b", "--c=d"]
        done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    choice = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    fits = choice.exists() and "[madvise]" in choice.read_text() and platform.libc_ver()[0] == "glibc"
    assert told() == f"{'glibc.malloc.hugetlb=1' if fits else None} ['a b', '--c=d']"
    assert told(GLIBC_TUNABLES="glibc.malloc.check=0") == "glibc.malloc.check=0 ['a b', '--c=d']"
