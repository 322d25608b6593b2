"""Where an export may be written to."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from gptcore.errors import ConfigError
from gptcore.files import MANIFEST


def check_place(folder: Path, *, marks: tuple[str, ...], others: tuple[str, ...]) -> None:
    """Refuse a place that holds anything but an earlier export of the same form.

    Args:
        folder: where to write.
        marks: files that every export of the form has.
        others: names, or patterns of names, that it may have besides.

    Raises:
        ConfigError: something else is there.
    """
    if not folder.exists():
        return
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    known = all(any(fnmatch(name, allowed) for allowed in (MANIFEST, *marks, *others)) for name in found)
    if found and not (known and {MANIFEST, *marks} <= found):
        raise ConfigError(
            f"{folder} exists and is not an earlier export, so it is not replaced; choose an empty folder"
        )
