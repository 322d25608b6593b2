"""Where a run came from: commit, interpreter, packages and machine, as tags and as one text file."""

from __future__ import annotations

import functools
import getpass
import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = ("torch", "numpy", "tiktoken", "tokenizers", "prefect", "mlflow", "ollama")


@functools.cache
def environment_tags() -> dict[str, str]:
    """Commit, versions and machine as run tags; read once per process, without importing any of the packages."""
    commit, dirty = git_state(Path(__file__).parents[1])
    return {
        "mlflow.source.git.commit": commit,
        "gptworks.git_dirty": dirty,
        "gptworks.python": platform.python_version(),
        "gptworks.platform": platform.platform(),
        "gptworks.host": socket.gethostname(),
        "gptworks.cpu_count": str(os.cpu_count() or 0),
        **{f"gptworks.version.{name}": package_version(name) for name in _PACKAGES},
    }


def git_state(folder: Path) -> tuple[str, str]:
    """The commit that a folder is at, and "true" or "false" for uncommitted changes; "unknown" outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return "unknown", "unknown"
    changes = _git(folder, "status", "--porcelain")
    return commit, "unknown" if changes is None else str(bool(changes)).lower()


def package_version(name: str) -> str:
    """Version of an installed distribution, or "absent"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def user_name() -> str:
    """Who runs this, or "unknown" where the system has no name for the user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@functools.cache
def environment_text() -> str:
    """The environment tags and every installed distribution with its version, one per line."""
    tags = [f"{name}: {value}" for name, value in environment_tags().items()]
    names = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    packages = [f"{name}=={names[name]}" for name in sorted(names, key=str.lower)]
    return "\n".join([*tags, "", *packages]) + "\n"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
