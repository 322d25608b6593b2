"""The judge's answers on disk: what was asked once is not asked again, whatever interrupted the run.

One JSON Lines file, only ever appended to, one line an answer: what is written survives a killed process at once, and a
machine that loses its power after a second. An answer is found by the digest of
everything that can change it: the backend's description (model digest, server and client version, options), the schema,
the messages, and the request's identity (prompt digest, item, repeat, repair). Failures are written down too, and are
not served, so that running again asks exactly what is still open.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from eval.digest import digest, to_canonical_json
from eval.errors import JudgeChanged, StoreError
from eval.judge.client import CallFailed, ChatClient, Message, Reply
from eval.judge.schema import find_fault

OK: Final = "ok"
"""The outcome of an answer that is served."""
_TAKEN_BACK: Final = "taken_back"
"""The outcome of an answer of which it is not known which model gave it."""
_FORMAT = 2
_OLDER_FORMATS = (1,)
_SYNC_EVERY: Final = 1.0
"""Seconds after which what was written is forced onto the disk."""
_FIELDS = {"format", "key", "exchange", "outcome", "reply"}
_logger = logging.getLogger(__name__)


def compute_request_key(
    *,
    describe: Mapping[str, Any],
    schema: Mapping[str, Any],
    messages: Sequence[Message],
    identity: Mapping[str, str | int],
) -> str:
    """sha256 of everything that can change an answer; the order of keys matters in the schema alone."""
    return digest(
        {
            "format": _FORMAT,
            "describe": describe,
            # As text, unsorted: a grammar made from a schema follows the order of its properties.
            "schema": json.dumps(schema),
            "messages": list(messages),
            "identity": identity,
        }
    )


class AnswerStore:
    """An open file of answers, locked against other processes; use it in a ``with`` statement."""

    def __init__(self, path: Path) -> None:
        """Open or create ``path``.

        A last line that was cut off by a killed process is removed, with a warning.
        Raises StoreError if another process has the file open, or if a line before the last is damaged.
        """
        self.path = path
        self._lock = threading.Lock()
        self._records: dict[str, dict[str, Any]] = {}
        self._settled: set[str] = set()
        self._synced = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise StoreError(f"{path}: cannot be opened ({error.strerror}); check the folder's permissions") from error
        try:
            self._claim()
            self._load()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        """The store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file, all of it on the disk, and give up the lock; raises StoreError if the disk refuses."""
        try:
            self._sync()
        except OSError as error:
            raise StoreError(f"{self.path}: the last answers may not be on the disk ({error.strerror})") from error
        finally:
            os.close(self._file)

    def find(self, key: str) -> Reply | None:
        """The recorded answer to a request, if there is one to be served.

        An output that could not be read is served only where the repair that followed it succeeded: it is then a step
        towards a known answer, and without it that answer could not be reached again.
        """
        record = self._records.get(key)
        if record is None or record["reply"] is None:
            return None
        if record["outcome"] != OK and record["exchange"] not in self._settled:
            return None
        return replace(Reply.from_json(record["reply"]), cached=True)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, whole; raises StoreError if it cannot be."""
        line = (to_canonical_json(record) + "\n").encode("ascii")
        with self._lock:
            size = os.fstat(self._file).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._file, line[written:])
                if time.monotonic() - self._synced >= _SYNC_EVERY:
                    self._sync()
            except OSError as error:
                os.ftruncate(self._file, size)
                raise StoreError(
                    f"{self.path}: the answer could not be written ({error.strerror}); make room and run again,"
                    " everything before it is kept"
                ) from error
            self._learn(dict(record))

    def settle(self, key: str, reply: Reply, *, identity: Mapping[str, str | int]) -> None:
        """Record the answer to a question that is not an item's, to be found again by ``key``."""
        record = {"format": _FORMAT, "key": key, "exchange": key, "identity": dict(identity), "messages": []}
        self.append({**record, "asked": datetime.now(UTC).isoformat(), "outcome": OK, "reply": reply.to_json()})

    def _sync(self) -> None:
        os.fsync(self._file)
        self._synced = time.monotonic()

    def _claim(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"{self.path}: another process is writing to it; wait for that run, or choose another file"
            ) from error

    def _load(self) -> None:
        content = self.path.read_bytes()
        lines = content.split(b"\n")
        torn = lines.pop()
        if torn:
            _logger.warning("%s: removed a last line of %d bytes that was never finished", self.path, len(torn))
            os.ftruncate(self._file, len(content) - len(torn))
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                if record["format"] in _OLDER_FORMATS:
                    continue  # its key can be asked for by nobody
                if record["format"] != _FORMAT or not record.keys() >= _FIELDS:
                    raise ValueError("another form")
                if record["reply"] is not None:
                    Reply.from_json(record["reply"])
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise StoreError(
                    f"{self.path}:{number}: not a recorded answer ({error}); remove this line, and its question is"
                    " asked again"
                ) from error
            self._learn(record)

    def _learn(self, record: dict[str, Any]) -> None:
        known = self._records.get(record["key"])
        if record["outcome"] == _TAKEN_BACK:
            self._settled.discard(record["exchange"])
        # A failure after an answer, if there ever is one, does not take the answer away.
        elif known is not None and known["outcome"] == OK and record["outcome"] != OK:
            return
        elif record["outcome"] == OK:
            self._settled.add(record["exchange"])
        # The messages, which are most of it, are on the disk for whoever wants to read them.
        self._records[record["key"]] = {name: record[name] for name in ("exchange", "outcome", "reply")}


class CachedClient:
    """A backend behind a store: asks only what the store cannot answer, and records all it hears."""

    def __init__(self, client: ChatClient, store: AnswerStore) -> None:
        """Put ``store`` before ``client``."""
        self._client = client
        self._store = store
        self._guard = threading.Lock()
        self._in_flight: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._recorded: list[tuple[float, dict[str, Any]]] = []
        """When, and what, without its messages."""
        self._changed: JudgeChanged | None = None

    def describe(self) -> Mapping[str, Any]:
        """The backend's description; a store changes no answer."""
        return self._client.describe()

    def verify(self) -> None:
        """As the backend's; what was recorded since it was last known to be the same is taken back."""
        try:
            self._client.verify()
        except JudgeChanged as change:
            self._take_back(change)
            raise

    def chat(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any],
        identity: Mapping[str, str | int] | None = None,
    ) -> Reply:
        """The recorded reply, or a new one; raises what the backend raises, a CallFailed after recording it."""
        identity = identity or {}
        describe = self._client.describe()
        key = compute_request_key(describe=describe, schema=schema, messages=messages, identity=identity)
        # One question at a time per key: two equal items judged at once are one question.
        with self._guard:
            turn = self._in_flight[key]
        with turn:
            known = self._store.find(key)
            if known is not None:
                return known
            record = {
                "format": _FORMAT,
                "key": key,
                "exchange": _compute_exchange_key(describe, schema, identity=identity),
                "identity": dict(identity),
                "messages": list(messages),
                "asked": datetime.now(UTC).isoformat(),
            }
            try:
                reply = self._client.chat(messages, schema=schema, identity=identity)
            except CallFailed as failure:
                self._record({**record, "outcome": failure.reason, "detail": failure.detail, "reply": None})
                raise
            except JudgeChanged as change:
                self._take_back(change)
                raise
            self._record({**record, "outcome": find_fault(reply, schema) or OK, "reply": reply.to_json()})
            return reply

    def _record(self, record: dict[str, Any]) -> None:
        with self._guard:
            if self._changed is not None:
                raise self._changed
            self._store.append(record)
            self._recorded.append((time.monotonic(), {**record, "messages": []}))

    def _take_back(self, change: JudgeChanged) -> None:
        with self._guard:
            self._changed = change
            doubtful = [record for instant, record in self._recorded if instant > change.since]
            self._recorded.clear()
            for record in doubtful:
                self._store.append({**record, "outcome": _TAKEN_BACK, "detail": str(change), "reply": None})


def _compute_exchange_key(
    describe: Mapping[str, Any], schema: Mapping[str, Any], *, identity: Mapping[str, str | int]
) -> str:
    """What a first request and its repair have in common."""
    common = {name: value for name, value in identity.items() if name != "repair"}
    return compute_request_key(describe=describe, schema=schema, messages=(), identity=common)
