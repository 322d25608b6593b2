"""Compile the kernels on the machine that runs them, once, into the user's cache.

The source is 700 lines without dependencies, so that a compiler takes two seconds for it; torch's own way of building
extensions reads torch's headers, which takes most of a minute. What is built is named by everything that shapes it:
sources, compiler, flags, processor, OpenMP runtime. A lock lets one process build while others wait.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from gptcore.errors import ConfigError
from gptcore.locking import hold

SOURCES = Path(__file__).parent
_MAIN = "inference.cpp"
_HEADERS = ("lanes.h", "matrix.h")
_COMPILERS = ("g++", "c++", "clang++")
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
NATIVE = ("-march=native",)
"""Flags for the processor at hand."""
_LONGEST_BUILD = 120.0


def cache_folder() -> Path:
    """Where built kernels are kept (the XDG base directory specification names the environment variable)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gptworks" / "kernels"


def build_library(*, target: Sequence[str] = NATIVE, folder: Path | None = None) -> Path:
    """The path of the shared library, which is compiled if it is not there yet.

    Args:
        target: flags that name the processor.
        folder: in the place of ``cache_folder()``.

    Raises:
        ConfigError: there is no compiler, it fails, or the folder cannot be written; the text says which.
    """
    compiler = find_compiler()
    runtime = openmp_runtime()
    name = _name((*_FLAGS, *target), compiler=compiler, runtime=runtime)
    folder = folder or cache_folder()
    library = folder / f"{name}.so"
    if library.is_file():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hold(folder / f"{name}.lock", purpose="the compilation of the kernels"):
            if not library.is_file():
                _compile(library, compiler=compiler, target=target, runtime=runtime)
    except OSError as error:
        raise ConfigError(
            f"the kernels cannot be built in {folder} ({error}); make it writable or let XDG_CACHE_HOME name another"
        ) from error
    return library


def find_compiler() -> str:
    """The C++ compiler: ``CXX`` if it is set, else the first that is on the path.

    Raises:
        ConfigError: there is none.
    """
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else _COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise ConfigError(
        f"no C++ compiler: {wanted or ', '.join(_COMPILERS)} is not on the PATH; install one (Debian, Ubuntu: "
        "apt-get install g++), or name it by CXX"
    )


def openmp_runtime() -> Path | None:
    """The OpenMP runtime that torch has loaded: with another one, two sets of threads would fight for the processor."""
    maps = Path("/proc/self/maps")
    text = maps.read_text(encoding="utf-8", errors="replace") if maps.exists() else ""
    found = {Path(path) for path in re.findall(r"(/\S*/lib(?:gomp|iomp5|omp)\b\S*)$", text, re.MULTILINE)}
    # others may have been loaded beside it: wheels bring their own, in a folder that ends in .libs
    own = Path(torch.__file__).parent
    return min(found, key=lambda path: (not path.is_relative_to(own), ".libs/" in str(path), path), default=None)


def _name(flags: Sequence[str], *, compiler: str, runtime: Path | None) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text(encoding="utf-8") if cpu.exists() else platform.processor()
    processor = re.findall(r"^(?:model name|flags|Features|CPU part)\s*:.*$", text, re.MULTILINE)
    parts: Iterable[str] = (
        *((SOURCES / name).read_text(encoding="utf-8") for name in (_MAIN, *_HEADERS)),
        *flags,
        compiler,
        version,
        platform.machine(),
        *sorted(set(processor)),
        str(runtime),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _compile(library: Path, *, compiler: str, target: Sequence[str], runtime: Path | None) -> None:
    partial = library.with_name(f"{library.name}.tmp-{os.getpid()}")
    made = partial.with_suffix(".o")
    link = [str(runtime)] if runtime else ["-fopenmp"]
    try:
        _run([compiler, *_FLAGS, *target, "-c", str(SOURCES / _MAIN), "-o", str(made)])
        _run([compiler, "-shared", str(made), *link, "-o", str(partial)])
        partial.replace(library)
    finally:
        made.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_BUILD, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"{command[0]} did not finish within {_LONGEST_BUILD:.0f} s") from error
    if done.returncode:
        lines = done.stderr.splitlines() or ["no output"]
        reason = next((line for line in lines if "error" in line), lines[0])
        raise ConfigError(f"{command[0]} failed with exit code {done.returncode}: {reason}")
