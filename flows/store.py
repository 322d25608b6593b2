"""The stage store: what every stage made, in folders named by the hash of what made it.

    <root>/<stage>/<key>/                 finished: manifest.json was written last, then the folder was renamed to this
    <root>/<stage>/<key>.work/            begun: kept after a crash, so that training resumes in it
    <root>/<stage>/<key>.lock             held (flock) by the one process that works on the key, and names it
    <root>/<stage>/<key>.corrupt-<n>/     was finished, then damaged; set aside, never reused

The lock belongs to the kernel: it is free the moment its process dies, however it dies.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptcore.config import canonical_json
from gptcore.errors import DataError
from gptcore.files import MANIFEST, disk_errors, file_sha256, sync, write_json, write_text
from gptcore.locking import hold

_RUN_ID = ".mlflow-run"
_FIELDS = {"stage", "key", "version", "config", "inputs", "result", "seconds", "mlflow_run_id", "files"}

log = logging.getLogger(__name__)


def stage_key(stage: str, *, version: str | int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The name of a stage's output: 16 hex digits of the sha256 of everything that decides it.

    Args:
        stage: name of the stage; part of the key, so that two stages with equal inputs do not share an output.
        version: the stage's code version; raising it makes every earlier output of the stage stale.
        config: the frozen configuration as plain JSON, without fields that only matter at run time (device, paths).
        inputs: digest or key of every input, by the input's name.
    """
    described = {"stage": stage, "version": str(version), "config": dict(config), "inputs": dict(inputs)}
    return hashlib.sha256(canonical_json(described).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Entry:
    """One finished output."""

    path: Path
    """The folder; read it, never write to it."""
    stage: str
    key: str
    digest: str
    """sha256 (hex) over the names and contents of the files: the input digest of the next stage."""
    result: dict[str, Any]
    """The stage's small values: paths relative to ``path``, metrics, counts."""
    inputs: dict[str, str]
    seconds: float
    """How long the commit's own attempt worked; earlier, interrupted attempts are not included."""
    run_id: str | None
    """The MLflow run that shows how it was made."""


@dataclass
class Work:
    """A key held by this process: either already finished (``entry``), or to be made in ``folder`` and committed."""

    stage: str
    key: str
    folder: Path
    """Write here; what an interrupted attempt left is still inside."""
    target: Path
    entry: Entry | None = None
    """The finished output; set from the start when there is nothing to do, otherwise by ``commit``."""
    run_id: str | None = None
    """MLflow run of the interrupted attempt, to continue it."""
    started: float = field(default_factory=time.monotonic)

    def remember_run(self, run_id: str) -> None:
        """Keep the MLflow run with the work, so that the next attempt continues the same run."""
        self.run_id = run_id
        write_text(self.folder / _RUN_ID, run_id)

    def commit(
        self,
        result: Mapping[str, Any],
        *,
        version: str | int = "",
        config: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> Entry:
        """Declare the folder whole: sync its files, write the manifest last, give the folder its final name.

        Raises:
            OutOfDiskError: the manifest could not be written; the work is kept and the next attempt continues it.
        """
        (self.folder / _RUN_ID).unlink(missing_ok=True)
        for leftover in (self.folder / MANIFEST, *self.folder.rglob("*.tmp-*")):  # of an attempt that was killed
            leftover.unlink(missing_ok=True)
        files = {str(path.relative_to(self.folder)): path for path in _files(self.folder)}
        manifest = {
            "stage": self.stage,
            "key": self.key,
            "version": str(version),
            "config": dict(config or {}),
            "inputs": dict(inputs or {}),
            "result": dict(result),
            "seconds": round(time.monotonic() - self.started, 3),
            "mlflow_run_id": self.run_id,
            "files": {name: {"size": path.stat().st_size, "sha256": _sync(path)} for name, path in files.items()},
        }
        write_json(self.folder / MANIFEST, manifest)
        retired = _retire(self.target, "replaced")
        self.folder.rename(self.target)
        sync(self.target.parent)
        if retired is not None:
            shutil.rmtree(retired)
        self.entry = _entry(self.target, manifest)
        return self.entry


class StageStore:
    """Finds finished outputs and hands out the right to make missing ones."""

    def __init__(self, root: Path) -> None:
        """Use ``root``, which need not exist yet."""
        self.root = root

    def folder(self, stage: str, key: str) -> Path:
        """Where the finished output of a key is, or will be."""
        return self.root / stage / key

    def lock(self, stage: str, key: str) -> Path:
        """The lock file of a key."""
        return self.root / stage / f"{key}.lock"

    def find(self, stage: str, key: str, *, verify: bool = False) -> Entry | None:
        """The finished output of a key, or None when there is none that can be trusted.

        Every file that the manifest names must exist with its size, and with ``verify`` also with its sha256. A
        damaged output is set aside as ``<key>.corrupt-<n>`` with a warning that names the file.
        """
        folder = self.folder(stage, key)
        if not folder.is_dir():
            return None
        try:
            manifest = _read_manifest(folder, verify=verify)
        except DataError as problem:
            aside = _retire(folder, "corrupt")
            log.warning("%s/%s is damaged: %s; it was set aside as %s and will be rebuilt", stage, key, problem, aside)
            return None
        return _entry(folder, manifest)

    def retire(self, stage: str, key: str) -> Path:
        """Take a finished output out of use in one step, to be removed; call it while holding its lock.

        Returns:
            The folder's new name, ``<key>.replaced-<n>``, which ``reconcile`` removes if the caller does not.

        Raises:
            FileNotFoundError: the output does not exist.
        """
        aside = _retire(self.folder(stage, key), "replaced")
        if aside is None:
            raise FileNotFoundError(self.folder(stage, key))
        return aside

    @contextmanager
    def produce(self, stage: str, key: str, *, force: bool = False, wait: bool = True) -> Iterator[Work]:
        """Hold a key: ``work.entry`` is set when the output exists; otherwise fill ``work.folder`` and ``commit``.

        A second process waits for the first and then finds its finished entry. When the block is left without a
        commit, the work folder stays for the next attempt.

        Args:
            stage: name of the stage.
            key: the output's key, from ``stage_key``.
            force: make it anew from an empty folder; the old output is removed when the new one is whole.
            wait: False refuses at once when another process holds the key.

        Raises:
            LockedError: ``wait`` is False and another process holds the key; names its pid, host and start.
        """
        target = self.folder(stage, key)
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        folder = target.with_name(f"{key}.work")
        with hold(self.lock(stage, key), wait=wait, purpose=f"{stage}/{key}"):
            entry = None if force else self.find(stage, key)
            if entry is None:
                if force and folder.exists():
                    shutil.rmtree(folder)
                with disk_errors(folder):
                    folder.mkdir(exist_ok=True)
            marker = folder / _RUN_ID
            run_id = marker.read_text() if entry is None and marker.is_file() else None
            yield Work(stage=stage, key=key, folder=folder, target=target, entry=entry, run_id=run_id)


def _entry(folder: Path, manifest: Mapping[str, Any]) -> Entry:
    contents = {name: facts["sha256"] for name, facts in manifest["files"].items()}
    return Entry(
        path=folder,
        stage=manifest["stage"],
        key=manifest["key"],
        digest=hashlib.sha256(canonical_json(contents).encode()).hexdigest(),
        result=dict(manifest["result"]),
        inputs=dict(manifest["inputs"]),
        seconds=float(manifest["seconds"]),
        run_id=manifest["mlflow_run_id"],
    )


def _read_manifest(folder: Path, *, verify: bool) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files = {str(name): (int(facts["size"]), str(facts["sha256"])) for name, facts in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if absent := sorted(_FIELDS - manifest.keys()):
        raise DataError(f"{path} lacks the fields {', '.join(absent)}")
    for name, (size, sha256) in files.items():
        _check_file(folder / name, size, sha256 if verify else None)
    return manifest


def _check_file(path: Path, size: int, sha256: str | None) -> None:
    if not path.is_file():
        raise DataError(f"{path} is missing")
    found = path.stat().st_size
    if found != size:
        raise DataError(f"{path} has {found} bytes, its manifest says {size}")
    if sha256 is not None and (actual := file_sha256(path)) != sha256:
        raise DataError(f"{path} has sha256 {actual}, its manifest says {sha256}")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_sha256(path)


def _retire(folder: Path, reason: str) -> Path | None:
    """Rename a folder to the first free ``<name>.<reason>-<n>``; None when the folder does not exist (any more)."""
    n = 1
    while (aside := folder.with_name(f"{folder.name}.{reason}-{n}")).exists():
        n += 1
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return None
    return aside
