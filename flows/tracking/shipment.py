"""One journal on its way into one MLflow run.

Lines are sent in their order, and how far they have come is recorded after each call. A process that dies between a
call and its record has the next one make the call again, which changes nothing: MLflow drops a point that it has (same
name, step, instant and value), a param that has the value, a tag that is set, a file that is there.
"""

from __future__ import annotations

import logging
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flows.tracking.calls import RunCalls, RunGone, find
from flows.tracking.journal import Entry, Journal, Shipped
from flows.tracking.points import Fold, Point
from gptcore.locking import hold

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

BATCH = 1000
"""Most metrics that MLflow takes in one call."""
MAX_TAG = 5000

log = logging.getLogger(__name__)


Ask = Callable[["MlflowClient", str], str]
"""A question to the tracking store."""
AskExperiment = Callable[["MlflowClient", str, str], str]
"""The id of an experiment, by its stage and by what describes it where it is made."""


class NotYet(Exception):
    """A run that this one names has no MLflow run yet."""


@dataclass(frozen=True)
class Line:
    """What is left to send of one line."""

    entry: Entry
    end: int | None
    """The offset behind the line; None where it is not the last part of one, or is in memory alone."""
    points: tuple[Point, ...] = ()
    """The new points, if it is a line of metrics; at most ``BATCH``."""


class Shipment:
    """Sends what its journal holds, and what is added to it later."""

    def __init__(self, journal: Journal, *, experiment: AskExperiment, resolve: Ask) -> None:
        """Nothing is read or sent yet.

        Args:
            journal: what to send.
            experiment: gives the id of a stage's experiment, made if it is missing.
            resolve: puts MLflow's ids in the place of the runs' own in a text, or raises ``NotYet``.
        """
        self.journal = journal
        self.state: Shipped = journal.state()
        self.lost: list[str] = []
        """What MLflow refused for good."""
        self.calls = 0
        """How many calls have succeeded; who waits sees by it that something moves."""
        self.problem: Exception | None = None
        """Why the last attempt to send it failed."""
        self.finished = False
        """Nothing more will be logged."""
        self._gone = False
        self._experiment, self._resolve = experiment, resolve
        self._held = ExitStack()
        self._attached = False
        self._begin_again()

    @property
    def done(self) -> bool:
        """Whether MLflow has all that was logged so far."""
        size = self.journal.path.stat().st_size if self.journal.path.exists() else 0
        said = len(self.journal.in_memory) == self._taken and self._read >= size
        return self._attached and said and not (self._facts or self._files)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do until more is logged."""
        return self.done and (self._gone or not self.finished)

    def ship(self, client: MlflowClient) -> None:
        """Send everything that waits.

        Raises:
            LockedError: another process is sending this journal.
            NotYet: the run that this one belongs to has to be made first.
            Exception: whatever the client raises; the rest is sent when this is called again.
        """
        try:
            self._attach(client)
            calls = RunCalls(client, str(self.state.run_id), self._params, self.lost)
            self._send_facts(calls, client)
            self._send_files(calls)
        except RunGone as gone:
            log.warning("%s; all that the journal holds goes into a new run", gone)
            self._begin_again()
            self.ship(client)

    def let_go(self) -> None:
        """Forget a run that ended well; keep the journal of another one, which may be resumed."""
        if self._last_status == "FINISHED":
            self.journal.remove()
        else:
            self.journal.keep_state(replace(self.state, settled=self._read))
        self._held.close()
        self._gone = True

    def _begin_again(self) -> None:
        self._attached, self._fold, self._attempt, self._last_status = False, Fold(), 0, ""
        self._facts: deque[Line] = deque()
        self._files: deque[Line] = deque()
        self._read = self._taken = 0
        self._params: dict[str, str] = {}

    # -- the run

    def _attach(self, client: MlflowClient) -> None:
        if self._attached:
            self._read_on()
            return
        if not self.journal.folder.is_dir():
            raise FileNotFoundError(f"{self.journal.folder} was removed")
        self._held.close()
        self._held.enter_context(hold(self.journal.folder / "shipping.lock", wait=False, purpose=self.journal.id))
        self.state = self.journal.state()
        header = self.journal.header() or next((e for e in self.journal.in_memory if e["kind"] == "run"), None)
        if header is None:
            raise NotYet(f"{self.journal.path} has no header yet")
        run = self._run(client, header)
        self._params = dict(run.data.params)
        self._attempt = self._attempts_before(run) if self.state.continued else 0
        self._fold = Fold(_latest(client, run) if self.state.continued else None)
        self._attached = True
        self._read_on()

    def _run(self, client: MlflowClient, header: Entry) -> Run:
        run = self._find_run(client, self.state.run_id)
        if run is None:
            experiment_id, continued = self._experiment(client, header["stage"], header.get("about", "")), True
            # an earlier attempt's run, of which no journal is left; or our own that was made just before a crash
            run = self._find_run(client, header["continues"]) or _by_local_id(client, experiment_id, self.journal.id)
            if run is None or not (run.data.params or run.data.metrics):
                continued = False
            run = run or self._create(client, experiment_id, header)
            self.state = Shipped(run.info.run_id, run.info.experiment_id, continued=continued)
            self.journal.keep_state(self.state)
        return run

    def _attempts_before(self, run: Run) -> int:
        """How often the run was begun before this journal."""
        ours = [e for end, e in self.journal.read(0) if e["kind"] in ("run", "begin") and end <= self.state.facts]
        return int(run.data.tags.get("gptworks.attempt", "0")) - len(ours)

    def _find_run(self, client: MlflowClient, run_id: str | None) -> Run | None:
        """The run that was there before, unless it is gone."""
        if run_id is None:
            return None
        run = find(lambda: client.get_run(run_id))
        if run is not None and run.info.lifecycle_stage == "active":
            return run
        log.warning("MLflow run %s %s; a new run is opened", run_id, "is not there" if run is None else "was deleted")
        return None

    def _create(self, client: MlflowClient, experiment_id: str, header: Entry) -> Run:
        # tags at creation: a crash in between must not leave a run that cannot be found again
        own = {"gptworks.local_run": self.journal.id, "gptworks.attempt": "1"}
        tags = {**own, **self._tags(client, header["tags"])}
        return client.create_run(experiment_id, start_time=header["time"], run_name=header["name"], tags=tags)

    def _tags(self, client: MlflowClient, tags: Mapping[str, str]) -> dict[str, str]:
        return {name: self._resolve(client, str(value))[:MAX_TAG] for name, value in tags.items()}

    # -- reading

    def _read_on(self) -> None:
        for end, entry in self.journal.read(self._read):
            self._take(entry, end)
            self._read = end
        memory = self.journal.in_memory
        for entry in memory[self._taken :]:
            self._take(entry, None)
            self._taken += 1

    def _take(self, entry: Entry, end: int | None) -> None:
        if entry["kind"] == "file":
            if end is None or end > self.state.files:
                self._files.append(Line(entry, end))
            return
        self._attempt += entry["kind"] in ("run", "begin")
        self._last_status = entry["status"] if entry["kind"] == "end" else self._last_status
        new = self._fold.points(entry) if entry["kind"] == "metrics" else []
        if end is not None and end <= self.state.facts:
            return
        if entry["kind"] != "metrics":
            self._facts.append(Line({**entry, "attempt": self._attempt}, end))
        elif new:
            parts = [tuple(new[i : i + BATCH]) for i in range(0, len(new), BATCH)]
            self._facts.extend(Line(entry, end if part is parts[-1] else None, part) for part in parts)

    # -- sending

    def _send_facts(self, calls: RunCalls, client: MlflowClient) -> None:
        while self._facts:
            lines = self._batch()
            if lines[0].points:
                calls.points([point for line in lines for point in line.points])
            else:
                self._send_fact(calls, lines[0].entry, client)
            for _ in lines:
                self._facts.popleft()
            ends = [line.end for line in lines if line.end is not None]
            self._record(facts=max(ends, default=self.state.facts))

    def _batch(self) -> list[Line]:
        """The next line, and if it has points, as many more with points as go with it in one call."""
        lines, n = [self._facts[0]], len(self._facts[0].points)
        for line in list(self._facts)[1:]:
            n += len(line.points)
            if not lines[0].points or not line.points or n > BATCH:
                break
            lines.append(line)
        return lines

    def _send_fact(self, calls: RunCalls, entry: Entry, client: MlflowClient) -> None:
        match entry["kind"]:
            case "run":
                calls.params(entry["params"])
                if self.state.continued:
                    calls.reopen(self._tags(client, entry["tags"]), attempt=entry["attempt"])
            case "begin":
                calls.reopen(self._tags(client, entry["tags"]), attempt=entry["attempt"])
            case "params":
                calls.params(entry["params"])
            case "tags":
                calls.tags(self._tags(client, entry["tags"]))
            case "dataset":
                calls.dataset(entry)
            case "end":
                calls.end(entry)

    def _send_files(self, calls: RunCalls) -> None:
        while self._files:
            line = self._files[0]
            local = self.journal.folder / line.entry["path"]
            calls.file(local, line.entry["name"], table=line.entry["table"])
            self._files.popleft()
            self._record(files=self.state.files if line.end is None else line.end)
            shutil.rmtree(local.parent, ignore_errors=True)

    def _record(self, *, facts: int | None = None, files: int | None = None) -> None:
        self.calls += 1
        before = self.state
        self.state = replace(
            before,
            facts=before.facts if facts is None else facts,
            files=before.files if files is None else files,
        )
        if self.state != before:
            self.journal.keep_state(self.state)


def _by_local_id(client: MlflowClient, experiment_id: str, local_id: str) -> Run | None:
    found = client.search_runs([experiment_id], f"tags.`gptworks.local_run` = '{local_id}'", max_results=1)
    return found[0] if found else None


def _latest(client: MlflowClient, run: Run) -> dict[str, Point]:
    """The latest point of each metric that MLflow has: where the journal of the earlier attempts is gone."""
    latest = {}
    for metric in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, metric)
        points = (Point(metric, point.value, point.step, point.timestamp) for point in history)
        latest[metric] = max(points, key=lambda point: (point.step, point.time_ms))
    return latest
