"""The calls that write into one MLflow run.

A call that fails is either to be made again later (an exception), or will never be taken, however often it is made:
then its content is listed as lost, and the rest is sent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from flows.tracking.journal import Entry
from flows.tracking.points import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
_GONE = "RESOURCE_DOES_NOT_EXIST"
_REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", _GONE}
_PER_CALL = 100
"""Most params or tags that MLflow takes in one call."""
_MAX_DIGEST = 36

log = logging.getLogger(__name__)


def find(ask: Callable[[], T]) -> T | None:
    """What MLflow answers; None where it has no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code == _GONE:
            return None
        raise


class RunGone(Exception):
    """The MLflow run was deleted."""


@dataclass
class RunCalls:
    """Writes into one run; each method may raise whatever the client raises, and ``RunGone``."""

    client: MlflowClient
    """To make calls with."""
    run_id: str
    """MLflow's."""
    known: dict[str, str]
    """The params that the run has; kept up to date here."""
    lost: list[str]
    """What MLflow refused for good; added to here."""

    def points(self, points: Sequence[Point]) -> None:
        """Add at most 1000 points."""
        from mlflow.entities import Metric

        metrics = [Metric(point.name, point.value, point.time_ms, point.step) for point in points]
        if self._attempt(partial(self.client.log_batch, self.run_id, metrics=metrics, synchronous=True)):
            return
        if len(points) == 1:
            self.lost.append(f"metric {points[0].name}")
            return
        half = len(points) // 2  # one of them is refused, and the others are not lost with it
        self.points(points[:half])
        self.points(points[half:])

    def params(self, params: Mapping[str, str]) -> None:
        """Add params; one that has a value keeps it, and a different one is a warning."""
        from mlflow.entities import Param

        fresh = []
        for name, value in params.items():
            if name not in self.known:
                fresh.append(Param(name, value))
            elif self.known[name] != value:
                log.warning(
                    "param %s stays %s in run %s; not changed to %s", name, self.known[name], self.run_id, value
                )
        for start in range(0, len(fresh), _PER_CALL):
            batch = fresh[start : start + _PER_CALL]
            if self._attempt(partial(self.client.log_batch, self.run_id, params=batch)):
                self.known.update({param.key: param.value for param in batch})
            else:
                self.lost.append(f"{len(batch)} params")

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        entities = [RunTag(name, value) for name, value in tags.items()]
        for start in range(0, len(entities), _PER_CALL):
            batch = entities[start : start + _PER_CALL]
            if not self._attempt(partial(self.client.log_batch, self.run_id, tags=batch)):
                self.lost.append(f"{len(batch)} tags")

    def dataset(self, entry: Entry) -> None:
        """Name an input."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        where = json.dumps({"uri": entry["source"], "sha256": entry["digest"]})
        data = Dataset(name=entry["name"], digest=entry["digest"][:_MAX_DIGEST], source_type="local", source=where)
        used = DatasetInput(dataset=data, tags=[InputTag("mlflow.data.context", entry["context"])])
        if not self._attempt(partial(self.client.log_inputs, self.run_id, datasets=[used])):
            self.lost.append(f"data set {entry['name']}")

    def file(self, local: Path, name: str, *, table: bool) -> None:
        """Keep a file as the artifact ``name``, whose last part is the file's own."""
        folder = PurePosixPath(name).parent
        inside = None if folder == PurePosixPath() else str(folder)
        if not local.is_file() or not self._attempt(partial(self.client.log_artifact, self.run_id, str(local), inside)):
            self.lost.append(name)
        elif table:
            self._mark_table(name)

    def reopen(self, tags: Mapping[str, str], *, attempt: int) -> None:
        """Resume the run."""
        self.tags({**tags, "gptworks.attempt": str(attempt)})
        if "gptworks.failure" in self.client.get_run(self.run_id).data.tags:
            self._attempt(partial(self.client.delete_tag, self.run_id, "gptworks.failure"))
        self._attempt(partial(self.client.update_run, self.run_id, status="RUNNING"))
        log.info("MLflow run %s resumes, attempt %d", self.run_id, attempt)

    def end(self, entry: Entry) -> None:
        """Write the final status of the run."""
        if entry["reason"]:
            self.tags({"gptworks.failure": entry["reason"][:5000]})
        end = partial(self.client.set_terminated, self.run_id, status=entry["status"], end_time=entry["time"])
        self._attempt(end)

    def _mark_table(self, name: str) -> None:
        tag = "mlflow.loggedArtifacts"
        known = json.loads(self.client.get_run(self.run_id).data.tags.get(tag, "[]"))
        mark = {"path": name, "type": "table"}
        if mark not in known:
            self.tags({tag: json.dumps([*known, mark])})

    def _attempt(self, call: Callable[[], object]) -> bool:
        """Make a call; False if MLflow will never take it, an exception if it may later."""
        from mlflow.exceptions import MlflowException

        try:
            call()
        except MlflowException as error:
            if error.error_code not in _REFUSED:
                raise
            if not self._alive():
                raise RunGone(f"MLflow run {self.run_id} was deleted while it was written") from error
            log.warning("MLflow run %s refuses something for good: %s", self.run_id, error)
            return False
        return True

    def _alive(self) -> bool:
        run = find(partial(self.client.get_run, self.run_id))
        return run is not None and run.info.lifecycle_stage == "active"
