"""MlflowLogger: what a stage says about itself while it runs, sent to one MLflow run by its explicit id.

It satisfies ``gptcore.train.logger.RunLogger`` and adds figures, tables, texts, tags and data sets. Nothing here
raises because a server is away: metrics wait in the spool, the rest is counted, and ``close`` says what is missing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.provenance import environment_text
from flows.spool import MetricSpool

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

_MAX_PARAM = 6000
_MAX_DIGEST = 36

log = logging.getLogger(__name__)


class MlflowLogger:
    """Logs to one run; made by ``flows.tracking.stage_run``."""

    def __init__(
        self,
        client: MlflowClient,
        spool: MetricSpool,
        *,
        run_id: str,
        url: str,
        known_params: Mapping[str, str] | None = None,
    ) -> None:
        """Log to the run ``run_id``, which ``url`` shows in a browser."""
        self.run_id = run_id
        self.url = url
        self._client = client
        self._spool = spool
        self._params = dict(known_params or {})
        self._lost: list[str] = []

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Add params, flattened to dotted names; one that has a value keeps it, and a different one is told."""
        from mlflow.entities import Param

        fresh = {}
        for name, value in flatten(params).items():
            if name not in self._params:
                fresh[name] = value
            elif self._params[name] != value:
                log.warning(
                    "param %s stays %s in run %s; not changed to %s", name, self._params[name], self.run_id, value
                )
        names = list(fresh)
        for start in range(0, len(names), 100):
            batch = [Param(name, fresh[name]) for name in names[start : start + 100]]
            if self._try(f"{len(batch)} params", partial(self._client.log_batch, self.run_id, params=batch)):
                self._params.update({param.key: param.value for param in batch})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add numbers at an optimizer step; without a step, a summary of the whole run. Only buffered here."""
        self._spool.add(metrics, step=step)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or a folder with all it holds, under ``folder`` of the run's artifacts."""
        target = folder or None
        if path.is_dir():
            inside = f"{folder}/{path.name}" if folder else path.name
            self._try(str(path), lambda: self._client.log_artifacts(self.run_id, str(path), inside))
        else:
            self._try(str(path), lambda: self._client.log_artifact(self.run_id, str(path), target))

    def log_text(self, text: str, name: str) -> None:
        """Keep a text as the artifact ``name``, e.g. ``samples/step_000500.txt``."""
        self._try(name, lambda: self._client.log_text(self.run_id, text, name))

    def log_figure(self, figure: Figure, name: str) -> None:
        """Keep a matplotlib figure as the artifact ``name``, e.g. ``figures/confusion.png``."""
        self._try(name, lambda: self._client.log_figure(self.run_id, figure, name))

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Keep rows as a table for the UI's evaluation view; ``name`` ends in ``.json``. Replaces an older one."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        table = {"columns": columns, "data": [[row.get(column) for column in columns] for row in rows]}
        # MLflow's own log_table appends to what is there: a resumed stage would double its rows.
        if self._try(name, lambda: self._client.log_text(self.run_id, json.dumps(table, default=str), name)):
            self._try(f"the mark of {name} as a table", lambda: self._mark_table(name))

    def log_environment(self) -> None:
        """Keep commit, versions and the list of installed packages as ``environment.txt``."""
        self.log_text(environment_text(), "environment.txt")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing older values."""
        from mlflow.entities import RunTag

        entities = [RunTag(name, str(value)[:5000]) for name, value in tags.items()]
        for start in range(0, len(entities), 100):
            batch = entities[start : start + 100]
            self._try(f"{len(batch)} tags", partial(self._client.log_batch, self.run_id, tags=batch))

    def log_dataset(self, name: str, *, source: str, digest: str, context: str) -> None:
        """Name an input of the run.

        Args:
            name: what the UI shows.
            source: path or url.
            digest: sha256 (hex) of the contents; MLflow shows the first 36 digits, the source keeps all.
            context: what it was used for: ``training``, ``validation``, ``test``.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        where = json.dumps({"uri": source, "sha256": digest})
        dataset = Dataset(name=name, digest=digest[:_MAX_DIGEST], source_type="local", source=where)
        used = DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", context)])
        self._try(f"data set {name}", lambda: self._client.log_inputs(self.run_id, datasets=[used]))

    def flush(self) -> bool:
        """Send the metrics that wait; True when none are left."""
        return self._spool.flush()

    def close(self) -> None:
        """Send what waits and say what never arrived."""
        if not self._spool.flush():
            log.warning(
                "%d metric points of run %s did not reach MLflow; they wait in %s until the run continues",
                self._spool.unsent,
                self.run_id,
                self._spool.path,
            )
        if self._lost:
            log.warning("run %s lacks in MLflow: %s", self.run_id, ", ".join(self._lost))

    def _mark_table(self, name: str) -> None:
        tag = "mlflow.loggedArtifacts"
        known = json.loads(self._client.get_run(self.run_id).data.tags.get(tag, "[]"))
        mark = {"path": name, "type": "table"}
        if mark not in known:
            self._client.set_tag(self.run_id, tag, json.dumps([*known, mark]))

    def _try(self, what: str, call: Callable[[], object]) -> bool:
        try:
            call()
        except Exception as error:  # whatever the client raises, the stage goes on
            log.warning("%s could not be logged to run %s: %s", what, self.run_id, error)
            self._lost.append(what)
            return False
        return True


def flatten(params: Mapping[str, Any]) -> dict[str, str]:
    """Nested JSON as sorted dotted names and text: ``{"train": {"lr": 0.1}}`` becomes ``{"train.lr": "0.1"}``.

    A list of plain values stays one JSON text; a list with mappings inside becomes ``name.0.field``. Values are cut at
    6,000 characters, which is MLflow's limit.
    """
    flat: dict[str, str] = {}
    _flatten_into(flat, "", params)
    return {name: flat[name] for name in sorted(flat)}


def _flatten_into(flat: dict[str, str], prefix: str, value: Any) -> None:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            _flatten_into(flat, f"{prefix}.{name}" if prefix else str(name), item)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            _flatten_into(flat, f"{prefix}.{index}", item)
    elif prefix:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        flat[prefix] = text[:_MAX_PARAM]
