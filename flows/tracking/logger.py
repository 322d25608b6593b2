"""MlflowLogger: what a stage logs while it runs, kept in the run's journal and sent from there.

It satisfies ``gptcore.train.logger.RunLogger`` and adds figures, tables, texts, tags and data sets. Nothing here waits
for MLflow or raises because it is unreachable, but what asks for MLflow's own id or for everything to have arrived.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.tracking.journal import Journal, is_local
from flows.tracking.provenance import environment_text
from flows.tracking.shipper import Shipper

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_PARAM = 6000
_SECONDS_FOR_AN_ID = 60.0
"""The first use of a new SQLite store makes its tables."""
_SECONDS_WITHOUT_PROGRESS = 120.0

log = logging.getLogger(__name__)


class MlflowLogger:
    """Logs to one run; made by ``flows.tracking.runs.stage_run``."""

    def __init__(self, journal: Journal, shipper: Shipper, *, ui: str, continued: bool = False) -> None:
        """Log to a journal that this process writes; ``ui`` is where a browser finds MLflow."""
        self.continued = continued
        """Whether an earlier attempt has begun the run: one that was killed, failed, or suspended."""
        self.local_id = journal.id
        """The run's own id, known from the start; whatever is logged may name it, and MLflow's comes in its place."""
        self._journal = journal
        self._shipper = shipper
        self._shipment = shipper.attend(journal)
        self._ui = ui

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; the run's own id where MLflow does not answer. Waits for MLflow once."""
        return self._shipper.wait_for_id(self._shipment, patience=_SECONDS_FOR_AN_ID) or self.local_id

    @property
    def known_id(self) -> str | None:
        """MLflow's id of the run, if it is known by now."""
        return self._shipment.state.run_id

    @property
    def url(self) -> str:
        """Where a browser shows the run; empty where MLflow does not answer."""
        return run_url(self._ui, self.run_id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Add params, flattened to dotted names; one that has a value keeps it, and a different one is a warning."""
        self._journal.append("params", params=flatten(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add numbers at an optimizer step; without a step, a summary of the whole run."""
        values = {name: float(value) for name, value in metrics.items()}
        self._journal.append("metrics", metrics=values, step=step, time=int(time.time() * 1000))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file as it is now, or a folder with all it holds, under ``folder`` of the run's artifacts."""
        inside = f"{folder}/" if folder else ""
        if path.is_dir():
            for file in sorted(each for each in path.rglob("*") if each.is_file()):
                self._journal.stage_file(file, f"{inside}{path.name}/{file.relative_to(path).as_posix()}")
        else:
            self._journal.stage_file(path, f"{inside}{path.name}")

    def log_text(self, text: str, name: str) -> None:
        """Keep a text as the artifact ``name``, e.g. ``samples/step_000500.txt``."""
        self._journal.stage(name, lambda path: path.write_text(text, encoding="utf-8"))

    def log_figure(self, figure: Figure, name: str) -> None:
        """Keep a matplotlib figure as the artifact ``name``, e.g. ``figures/confusion.png``."""
        self._journal.stage(name, figure.savefig)

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Keep rows as a table for the UI's evaluation view; ``name`` ends in ``.json``. Replaces an older one."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        table = {"columns": columns, "data": [[row.get(column) for column in columns] for row in rows]}
        # MLflow's own log_table appends to what is there: a resumed stage would double its rows.
        text = json.dumps(table, default=str)
        self._journal.stage(name, lambda path: path.write_text(text, encoding="utf-8"), table=True)

    def log_environment(self) -> None:
        """Keep commit, versions and the list of installed packages as ``environment.txt``."""
        self.log_text(environment_text(), "environment.txt")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing older values."""
        self._journal.append("tags", tags={name: str(value) for name, value in tags.items()})

    def log_dataset(self, name: str, *, source: str, digest: str, context: str) -> None:
        """Name an input of the run.

        Args:
            name: what the UI shows.
            source: path or url.
            digest: sha256 (hex) of the contents; MLflow shows the first 36 digits, the source keeps all.
            context: what it was used for: ``training``, ``validation``, ``test``.
        """
        self._journal.append("dataset", name=name, source=source, digest=digest, context=context)

    def flush(self) -> bool:
        """Wait until MLflow has everything; False when it does not answer."""
        return self._shipper.wait(self._shipment, stall=_SECONDS_WITHOUT_PROGRESS)

    def close(self, *, status: str, reason: str = "", stall: float = _SECONDS_WITHOUT_PROGRESS) -> None:
        """Write the final status, then wait for MLflow while it takes something at least every ``stall`` seconds."""
        self._journal.append("end", status=status, reason=reason, time=int(time.time() * 1000))
        self._journal.sync()
        self._shipper.finish(self._shipment)
        arrived = self._shipper.wait(self._shipment, stall=stall)
        self._shipper.wait_for_rest(stall=stall)
        if not arrived:
            log.warning(
                "run %s ended %s, but not all of it has reached MLflow; it waits in %s for the next command that "
                "tracks, or: gptworks runs sync",
                self.local_id,
                status,
                self._journal.folder,
            )
        if self._shipment.lost:
            log.warning("run %s lacks in MLflow: %s", self.known_id, ", ".join(self._shipment.lost))


def run_url(ui: str, run_id: str | None) -> str:
    """Where a browser shows a run; empty for one that MLflow does not have yet."""
    return f"{ui}/#/runs/{run_id}" if run_id and not is_local(run_id) else ""


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
