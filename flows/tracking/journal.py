"""The journal of a tracked run: everything that is logged about it, on the local disk first.

    <spool>/<stage>-<key>-<run id>/
        journal.jsonl   one line for each entry, in order; only ever appended to
        state.json      which MLflow run it became, and how much of the journal MLflow has
        files/          artifacts on their way, hard-linked or copied when they were logged
        writer.lock     held (flock) by the process that the run belongs to
        shipping.lock   held (flock) by the process that brings it to MLflow

A line is one ``write``: it survives the death of its process at once, and that of the machine from the next ``sync``
on, which the shipping thread calls every second and which is called when a run opens and ends. A run has an id of its
own from before it is opened (``gw-`` and 32 hex digits); MLflow's id is known when MLflow has been reached.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptcore.errors import LockedError
from gptcore.files import write_json
from gptcore.locking import hold

LOCAL_ID = re.compile(r"\bgw-[0-9a-f]{32}\b")
"""The form of a run's own id, wherever it stands in a text."""
ENDED_WITHOUT_A_WORD = "the process was killed without a final status, or the machine went down"

log = logging.getLogger(__name__)

Entry = dict[str, Any]
"""One line: ``kind``, and what belongs to that kind."""


def new_run_id() -> str:
    """A new, unique id for a run."""
    return f"gw-{uuid.uuid4().hex}"


def is_local(run_id: str) -> bool:
    """Whether this is a run's own id, and not MLflow's."""
    return LOCAL_ID.fullmatch(run_id) is not None


@dataclass(frozen=True)
class Shipped:
    """How far a journal has come into MLflow."""

    run_id: str | None = None
    """The MLflow run that it became."""
    experiment_id: str | None = None
    """The MLflow experiment of that run."""
    facts: int = 0
    """Bytes of the journal whose params, metrics, tags and status MLflow has."""
    files: int = 0
    """Bytes of the journal whose files MLflow has."""
    continued: bool = False
    """Whether that run has something from before this journal."""
    settled: int = 0
    """Bytes of the journal when MLflow had all of it and its run had ended."""


class Journal:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        """The journal in ``folder``, which need not exist yet."""
        self.folder = folder
        self.id = folder.name[-35:]
        self.path = folder / "journal.jsonl"
        self.files = folder / "files"
        self.in_memory: list[Entry] = []
        """Entries since the disk refused a line; lost with this process unless they are shipped before."""
        self._state = folder / "state.json"
        self._descriptor: int | None = None
        self._unsynced = False
        self._lock = threading.Lock()

    # -- the writer's side

    @contextmanager
    def writing(self, *, wait: bool = False) -> Iterator[None]:
        """Be the process that the run belongs to.

        Raises:
            LockedError: another process is, and ``wait`` is False.
        """
        with hold(self.folder / "writer.lock", wait=wait, purpose=f"the tracked run {self.id}"):
            try:
                self._end_torn_line()
                yield
            finally:
                self.close()

    def append(self, kind: str, **what: Any) -> None:
        """Append one entry; never raises because of the disk, and never waits for anything but it."""
        entry: Entry = {"kind": kind, **what}
        with self._lock:
            if self.in_memory:
                self.in_memory.append(entry)
                return
            try:
                if self._descriptor is None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
                line = (json.dumps(entry, default=str) + "\n").encode()
                if (n := os.write(self._descriptor, line)) != len(line):
                    os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - n)
                    raise OSError(f"it took {n} of {len(line)} bytes")
                self._unsynced = True
            except OSError as error:
                log.warning(
                    "%s cannot be written (%s); what is logged from here on is in memory alone", self.path, error
                )
                self.in_memory.append(entry)

    def sync(self) -> None:
        """Sync all entries so far to the disk."""
        with self._lock:
            if not self._unsynced or self._descriptor is None:
                return
            self._unsynced = False
            descriptor = os.dup(self._descriptor)
        try:
            os.fsync(descriptor)  # outside of the lock: a slow disk holds up nobody who logs
        except OSError as error:
            log.warning("%s could not be brought to the disk: %s", self.path, error)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Sync and let go of the file."""
        self.sync()
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def stage_file(self, source: Path, name: str) -> None:
        """Log a file as the artifact ``name`` as it is now: by a hard link, so that large weights cost nothing."""

        def link(place: Path) -> None:
            try:
                os.link(source, place)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, place)

        self.stage(name, link)

    def stage(self, name: str, write: Callable[[Path], object], *, table: bool = False) -> None:
        """Log what ``write`` writes as the artifact ``name``; a disk that refuses it costs a warning.

        Args:
            name: path inside the run's artifacts.
            write: is given the path to write to.
            table: whether the UI is to show it as a table.
        """
        # a folder for each: MLflow names an artifact as its file is named
        folder = self.files / uuid.uuid4().hex[:12]
        place = folder / Path(name).name
        try:
            folder.mkdir(parents=True)
            write(place)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            log.warning("%s is not kept with run %s: %s", name, self.id, error)
            return
        self.append("file", path=str(place.relative_to(self.folder)), name=name, table=table)

    def _end_torn_line(self) -> None:
        if self.path.is_file() and (size := self.path.stat().st_size):
            with self.path.open("r+b") as file:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    # -- the shipping side

    @property
    def owned(self) -> bool:
        """Whether the process that the run belongs to is alive."""
        try:
            with hold(self.folder / "writer.lock", wait=False):
                return False
        except LockedError:
            return True

    def read(self, offset: int) -> Iterator[tuple[int, Entry]]:
        """The whole lines from ``offset`` on, each with the offset behind it; one not in JSON has the kind torn."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # the rest of it is not there yet
                offset += len(line)
                try:
                    entry = json.loads(line)
                except ValueError:
                    entry = {"kind": "torn"}  # by a crash; training logs it again when it resumes
                yield offset, entry

    def header(self) -> Entry | None:
        """The first line, which identifies the run; None if a crash came before it."""
        return next((entry for _, entry in self.read(0) if entry["kind"] == "run"), None)

    def final_status(self) -> str:
        """The status that the last attempt ended with; empty until it is written."""
        said = [entry for _, entry in self.read(0) if entry["kind"] in ("run", "begin", "end")]
        return str(said[-1].get("status", "")) if said else ""

    def state(self) -> Shipped:
        """How far it has come into MLflow; a damaged record counts as nothing, since sending again does no harm."""
        try:
            return Shipped(**json.loads(self._state.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Shipped()
        except (ValueError, TypeError) as error:
            log.warning("%s cannot be read (%s); everything is sent again", self._state, error)
            return Shipped()

    @property
    def settled(self) -> bool:
        """Whether MLflow has all of it and its run has ended."""
        return self.path.is_file() and self.path.stat().st_size == self.state().settled

    def keep_state(self, state: Shipped) -> None:
        """Record how far it has come."""
        write_json(self._state, asdict(state))

    def remove(self) -> None:
        """Forget the run, of which MLflow has everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def open_journal(spool: Path, *, stage: str, key: str, run_id: str) -> Journal:
    """The journal of a run, known by its own id or MLflow's; one that is not there is to be begun under its own id."""
    found = find_journal(spool, run_id)
    return found or Journal(spool / f"{_safe(stage)}-{_safe(key)}-{run_id if is_local(run_id) else new_run_id()}")


def find_journal(spool: Path, run_id: str) -> Journal | None:
    """The journal of a run, by its own id or MLflow's, if it is still there."""
    if is_local(run_id):
        return next((Journal(folder) for folder in spool.glob(f"*-{run_id}") if folder.is_dir()), None)
    return next((journal for journal in journals(spool) if journal.state().run_id == run_id), None)


def find_unfinished(spool: Path, *, stage: str, key: str) -> Journal | None:
    """The newest journal of a stage and key that no living process owns; those that ended well are gone or going."""
    here = [Journal(folder) for folder in spool.glob(f"{_safe(stage)}-{_safe(key)}-gw-*")]
    free = [each for each in here if each.header() is not None and not each.owned and each.final_status() != "FINISHED"]
    return max(free, key=_creation_time, default=None)


def journals(spool: Path) -> list[Journal]:
    """Every journal with a header, oldest first: a parent comes before what it holds."""
    here = [Journal(folder) for folder in spool.glob("*-gw-*") if folder.is_dir()]
    return sorted((each for each in here if each.header() is not None), key=_creation_time)


def close_abandoned(journal: Journal, *, whole: bool) -> bool:
    """Write the final status of a run whose process is gone; True if it had none.

    It is FINISHED if its output is ``whole``, else KILLED.
    """
    status, reason = ("FINISHED", "") if whole else ("KILLED", ENDED_WITHOUT_A_WORD)
    try:
        with journal.writing():
            if journal.final_status():
                return False
            journal.append("end", status=status, reason=reason, time=int(time.time() * 1000))
            return True
    except LockedError:
        return False


def _creation_time(journal: Journal) -> int:
    header: Mapping[str, Any] = journal.header() or {}
    return int(header.get("time", 0))


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
