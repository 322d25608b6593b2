"""Write files and folders so that they exist whole or not at all.

Everything is written beside its final name, flushed to the disk, and renamed; a folder additionally carries a manifest
with the size and sha256 of each file, written last. safetensors does not notice a flipped byte, the manifest does.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptcore.errors import DataError, GptcoreError, OutOfDiskError

MANIFEST = "manifest.json"
MAX_JSON_BYTES = 64 * 2**20
"""The largest JSON file that is read whole: several times a tokenizer of 256,000 words."""


@contextmanager
def disk_errors(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn "no space left" and "file too large" into an error that names the path, the bytes needed and those free.

    Raises:
        OutOfDiskError: the file system, the quota or a size limit of ``path`` is full.
    """
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        want = "" if needed is None else f"{needed:,} bytes are needed, "
        raise OutOfDiskError(
            f"{path} could not be written: {error.strerror} ({want}{free_bytes(path):,} bytes are free); nothing "
            "half-written was kept. Free some space or choose another folder, and run the same command again"
        ) from error


def is_disk_full(error: OSError) -> bool:
    """Whether a file system, a quota or a size limit has no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_bytes(path: Path) -> int:
    """Bytes free on the file system that holds ``path`` or its nearest existing parent."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8) in one step."""
    partial = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")
            sync(partial)
            partial.replace(path)
            sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by the JSON form of ``value`` in one step."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json_object(path: Path, error: type[GptcoreError]) -> dict[str, Any]:
    """The object in a JSON file of at most ``MAX_JSON_BYTES``.

    Raises:
        error: the file is missing, too large, no JSON, nested too deeply to be read, or holds no object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise error(f"{path} has {path.stat().st_size:,} bytes; a file of this kind has at most {MAX_JSON_BYTES:,}")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as cause:
        raise error(f"{path} cannot be read: {cause}") from cause
    if not isinstance(data, dict):
        raise error(f"{path} does not hold a JSON object")
    return data


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file.

    Raises:
        DataError: the file is missing, or a line is not a JSON object; names file and line.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; rerun the stage that writes it with --force")
    rows = []
    # not str.splitlines: a text may hold U+2028 and other separators, which JSON leaves as they are
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number} is not JSON ({error}); rerun the stage with --force") from error
            if not isinstance(row, dict):
                got = type(row).__name__
                raise DataError(
                    f"{path}, line {number}: expected a JSON object, got {got}; rerun the stage with --force"
                )
            rows.append(row)
    return rows


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace ``path`` by one JSON object per line in one step."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write into; on success it gets a manifest and takes the place of ``path``, else it vanishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with disk_errors(path):
            yield partial
            inside = sorted(partial.rglob("*"))
            entries = {
                str(p.relative_to(partial)): {"bytes": p.stat().st_size, "sha256": file_sha256(p)}
                for p in inside
                if p.is_file()
            }
            for each in inside:  # folders too: a file whose entry is lost is lost
                sync(each)
            write_json(partial / MANIFEST, {"files": entries})
            sync(partial)
            old = _set_aside(path)
            partial.rename(path)
            sync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Delete a folder that may be absent; killed on the way, nothing is left under its name."""
    shutil.rmtree(_set_aside(path), ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Delete what killed writers left in ``folder``; nobody else may be writing there."""
    for path in [*folder.glob("*.tmp-*"), *folder.glob("*.old-*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _set_aside(path: Path) -> Path:
    """Where the folder, if there is one, waits to be deleted."""
    old = path.with_name(f"{path.name}.old-{os.getpid()}")
    shutil.rmtree(old, ignore_errors=True)  # of a killed process that had the same number
    if path.exists():
        path.rename(old)
    return old


def verify_folder(path: Path, error: type[GptcoreError]) -> str:
    """Check every file against the manifest.

    Returns:
        sha256 (hex) of the manifest: the identity of the whole folder.

    Raises:
        error: the folder or its manifest is missing, or a file is missing, of another size, or of other content.
    """
    manifest = path / MANIFEST
    if not path.is_dir():
        raise error(f"{path} is not a folder; check the path")
    try:
        listed = json.loads(manifest.read_text(encoding="utf-8"))["files"].items()
        entries = [(str(name), int(entry["bytes"]), str(entry["sha256"])) for name, entry in listed]
    except FileNotFoundError as cause:
        raise error(f"{path} has no {MANIFEST}: it was never finished, or gptworks did not write it") from cause
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise error(
            f"{manifest} is damaged, or that of another kind of folder ({type(cause).__name__}: {cause}); "
            "check the path, restore the folder or make it again"
        ) from cause
    for name, size, sha256 in entries:
        file = path / name
        if not file.is_file():
            raise error(f"{file} is missing; restore it or make {path.name} again")
        if file.stat().st_size != size:
            raise error(f"{file} has {file.stat().st_size:,} bytes, its manifest says {size:,}; it is damaged")
        if file_sha256(file) != sha256:
            raise error(f"{file} does not match the sha256 in its manifest; it is damaged: restore it or make it again")
    return file_sha256(manifest)
