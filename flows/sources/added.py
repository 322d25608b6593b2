"""Data that people add over time: files taken in by content, read through before, never changed after.

    <home>/data/objects/<sha256><suffix>    the files, read-only
    <home>/data/manifest.json               what is in use now
    <home>/data/snapshots/<digest>.json     every state that the manifest had; a chain names the one it was made from

A file is taken in whole or not at all, and so is everything that one command adds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from flows.sources.base import passage_bytes
from flows.sources.parts import CORPUS, find_kind, join_words, list_parts
from gptcore.config import canonical_json
from gptcore.data import Document, read_documents
from gptcore.data.readers import ROW_SUFFIXES, TEXT_SUFFIXES, read_numbered_rows
from gptcore.errors import DataError
from gptcore.files import disk_errors, file_sha256, sync, write_json
from gptcore.locking import hold

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Added:
    """One file that was taken in."""

    sha256: str
    kind: str
    """What it is used for: ``corpus``, or the kind of a part of the data."""
    suffix: str
    n_bytes: int
    n_items: int
    """Documents or rows."""
    n_chars: int
    """Characters of all their texts."""
    origin: str
    """The path that it was added from."""
    added: str
    """When, in UTC."""

    @property
    def name(self) -> str:
        """What it is called as a source of a chain."""
        return f"added/{self.kind}/{self.sha256[:16]}"

    @property
    def passage_bytes(self) -> int:
        """How long the passages are that it is read in.

        It depends on this file alone: whatever is added later, its passages and their split stay what they are.
        """
        return passage_bytes(self.n_bytes)


class Taken(NamedTuple):
    """What one command added."""

    new: tuple[Added, ...]
    known: tuple[Path, ...]
    """Files whose content was there already."""
    digest: str
    """Of the snapshot that holds everything now."""


class DataFolder:
    """The added data of one installation."""

    def __init__(self, root: Path) -> None:
        """Use ``root``, which need not exist yet."""
        self.root = root

    def entries(self) -> tuple[Added, ...]:
        """What is in use now, in the order of addition."""
        return _read(self.root / "manifest.json") if (self.root / "manifest.json").is_file() else ()

    def snapshot(self, digest: str) -> tuple[Added, ...]:
        """What was in use in an earlier state.

        Raises:
            DataError: there was no such state.
        """
        path = self.root / "snapshots" / f"{digest}.json"
        if not path.is_file():
            raise DataError(
                f"{path} is missing: the added data of this chain is not in this installation; bring {self.root} back "
                "from where the chain was made, or add the files again"
            )
        return _read(path)

    def freeze(self) -> str | None:
        """The digest of what is in use now, whose snapshot stays; None if nothing is."""
        entries = self.entries()
        return _digest(entries) if entries else None

    def path(self, entry: Added) -> Path:
        """Where an added file is."""
        return self.root / "objects" / f"{entry.sha256}{entry.suffix}"

    def verify(self, entry: Added) -> Path:
        """Compare a file's content with its name, and return its path.

        Raises:
            DataError: it is missing, or was changed.
        """
        path = self.path(entry)
        if not path.is_file():
            raise DataError(f"{path} is missing; it was added from {entry.origin}: add it again")
        if (found := file_sha256(path)) != entry.sha256:
            raise DataError(
                f"{path} was changed: its sha256 is {found}, and its name says {entry.sha256}; remove it from the data "
                f"(gptworks data remove {entry.sha256[:12]}) and add the file again"
            )
        return path

    def add(self, paths: Sequence[Path], *, kind: str | None = None, link: bool = False) -> Taken:
        """Take in files, and the files of folders, after reading all of them through.

        Args:
            paths: files or folders of txt, md, jsonl, json, csv, tsv, parquet.
            kind: what they are; by default found from each file's columns.
            link: share the disk space with the original (a hard link) instead of copying; the original must then never
                be written to again.

        Raises:
            ConfigError: there is no such kind.
            DataError: a file cannot be read as what it is; nothing was added.
            OutOfDiskError: there is no room; nothing was added.
        """
        with hold(self.root / ".lock", purpose="the added data"):
            entries = self.entries()
            seen = {entry.sha256 for entry in entries}
            new: dict[str, tuple[Path, Added]] = {}
            known = []
            for path in _files(paths):
                sha256 = file_sha256(path)
                if sha256 in seen or sha256 in new:
                    known.append(path)
                else:
                    new[sha256] = (path, _describe(path, sha256, kind))
            for path, entry in new.values():
                self._take(path, entry, link=link)
            taken = tuple(entry for _, entry in new.values())
            digest = self._write((*entries, *taken)) if taken else (_digest(entries) if entries else "")
        return Taken(taken, tuple(known), digest)

    def remove(self, prefix: str) -> Added:
        """Take a file out of use, from the next chain on; its content stays for the chains that were made from it.

        Raises:
            DataError: no file in use, or several, have a sha256 that begins so.
        """
        with hold(self.root / ".lock", purpose="the added data"):
            entries = self.entries()
            found = [entry for entry in entries if entry.sha256.startswith(prefix)]
            if len(found) != 1 or not prefix:
                there = ", ".join(entry.sha256[:12] for entry in entries) or "none"
                raise DataError(
                    f"{len(found)} added files have a sha256 that begins with {prefix!r}; there are: {there}"
                )
            self._write(tuple(entry for entry in entries if entry != found[0]))
        return found[0]

    def _take(self, path: Path, entry: Added, *, link: bool) -> None:
        target = self.path(entry)
        if target.is_file() and file_sha256(target) == entry.sha256:  # removed once, and added again
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.tmp-{os.getpid()}")
        partial.unlink(missing_ok=True)
        try:
            with disk_errors(target, needed=entry.n_bytes):
                if link:
                    os.link(path.resolve(), partial)
                else:
                    shutil.copyfile(path, partial)
                    partial.chmod(0o444)
                sync(partial)
                if file_sha256(partial) != entry.sha256:
                    raise DataError(f"{path} changed while it was read; wait until it is whole, and add it again")
                partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def _write(self, entries: tuple[Added, ...]) -> str:
        digest, rows = _digest(entries), [asdict(entry) for entry in entries]
        # the snapshot first: a manifest never names a state that is not there
        write_json(self.root / "snapshots" / f"{digest}.json", rows)
        write_json(self.root / "manifest.json", rows)
        return digest


def read_added_documents(folder: DataFolder, entries: Iterable[Added]) -> Iterator[Document]:
    """The texts of added files, each under an identity that its content alone decides.

    Raises:
        DataError: a file is missing or was changed.
    """
    for entry in entries:
        path = folder.verify(entry)
        for document in read_documents(path, max_document_bytes=entry.passage_bytes):
            yield Document(document.text, f"added:{entry.sha256}{document.source.removeprefix(str(path))}")


def read_added_rows(folder: DataFolder, entries: Iterable[Added]) -> Iterator[dict[str, str]]:
    """The rows of added files.

    Raises:
        DataError: a file is missing or was changed.
    """
    for entry in entries:
        required, optional = _columns(entry.kind)
        for _, row in read_numbered_rows(folder.verify(entry), required=required, optional=optional):
            yield row


def _digest(entries: Iterable[Added]) -> str:
    """Of what is in use, in whatever order and wherever it came from."""
    described = sorted([entry.sha256, entry.kind, entry.suffix] for entry in entries)
    return hashlib.sha256(canonical_json(described).encode()).hexdigest()[:16]


def _read(path: Path) -> tuple[Added, ...]:
    try:
        return tuple(Added(**entry) for entry in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} is damaged ({error}); copy the newest file of {path.parent}/snapshots to it"
        ) from error


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    known = (*TEXT_SUFFIXES, *ROW_SUFFIXES)
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist; check the path")
        if not path.is_dir():
            if path.suffix.lower() not in known:
                raise DataError(f"{path}: data is read from {', '.join(known)}; rename or convert it")
            yield path
            continue
        inside = [each for each in sorted(path.rglob("*")) if each.is_file()]
        usable = [each for each in inside if each.suffix.lower() in known and not each.name.startswith(".")]
        for left in sorted(set(inside) - set(usable)):
            log.warning("%s is left out: it is hidden, or of a kind that is not read", left)
        if not usable:
            raise DataError(f"folder {path} has no file of the kinds {', '.join(known)}")
        yield from usable


def _describe(path: Path, sha256: str, kind: str | None) -> Added:
    """What a file holds; reading it to its end is what finds a broken one."""
    kind = kind or _kind(path)
    required, optional = _columns(kind)
    suffix = path.suffix.lower()
    n_items = n_chars = 0
    if suffix in TEXT_SUFFIXES:
        if kind != CORPUS:
            raise DataError(f"{path} is a text without columns, and {kind} needs {', '.join(required)}")
        texts: Iterable[str] = (document.text for document in read_documents(path))
    else:
        rows = read_numbered_rows(path, required=required, optional=optional)
        texts = ("".join(row.values()) for _, row in rows)
    for text in texts:
        n_items, n_chars = n_items + 1, n_chars + len(text)
    if not n_chars:
        raise DataError(f"{path} holds no text; give a file with content")
    return Added(
        sha256=sha256,
        kind=kind,
        suffix=suffix,
        n_bytes=path.stat().st_size,
        n_items=n_items,
        n_chars=n_chars,
        origin=str(path.absolute()),
        added=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _columns(kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that a file of a kind has, and those that it may have."""
    part = find_kind(kind)
    return (part.required, part.optional) if part else (("text",), ())


def _kind(path: Path) -> str:
    """The kind that the columns of a file fit; of several, the one that needs the most of them."""
    if path.suffix.lower() in TEXT_SUFFIXES:
        return CORPUS
    needed = {**{part.kind: part.required for part in list_parts()}, CORPUS: _columns(CORPUS)[0]}
    columns = tuple(dict.fromkeys(name for names in needed.values() for name in names))
    _, first = next(read_numbered_rows(path, required=(), optional=columns))
    fitting = {kind: len(names) for kind, names in needed.items() if all(first[name] for name in names)}
    best = [kind for kind, n in fitting.items() if n == max(fitting.values())]
    if len(best) == 1:
        return best[0]
    if best:
        raise DataError(f"{path}: its first row fits {join_words(best, 'and')}; say which it is by --kind")
    known = "; ".join(join_words(names, "and") for names in needed.values())
    raise DataError(
        f"{path}: its first row has none of: {known}. Rename the columns, or say what the file is by --kind, and the "
        "message names what is missing"
    )
