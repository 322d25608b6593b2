"""MLflow: the only place that opens and closes tracked runs.

One experiment per stage (``gptworks/pretrain``, ...), so that its table compares like with like. A run is found again
by its id or by its key, so an interrupted stage continues the same run. Runs are addressed by explicit id through
``MlflowClient``: MLflow's own "active run" belongs to a thread and closes as FINISHED whatever happened.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from flows.provenance import environment_tags, user_name
from flows.run_logger import MlflowLogger, flatten
from flows.settings import Settings
from flows.spool import MetricSpool, Point
from gptcore.errors import GptcoreError, InterruptedRun
from gptcore.locking import hold

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PREFIX = "gptworks"
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has the UI open an experiment with its table of runs; without it, it opens with pages for traces and prompts."""
_MAX_TAG = 5000
_PARAMS_PER_CALL = 100

log = logging.getLogger(__name__)


class TrackingError(GptcoreError):
    """No run could be opened, because the tracking store cannot be reached or refuses."""

    exit_code = 9


@contextmanager
def stage_run(
    settings: Settings,
    *,
    stage: str,
    name: str,
    key: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
    parent_run_id: str | None = None,
    run_id: str | None = None,
) -> Iterator[MlflowLogger]:
    """Open the tracked run of one stage, and close it truthfully: FINISHED, FAILED or KILLED.

    An unfinished run with this key is continued, so commit the stage's output inside the block: a run that is FINISHED
    is never opened again except by its id.

    Args:
        settings: where MLflow is.
        stage: names the experiment, ``gptworks/<stage>``.
        name: the run's name in the UI.
        key: the stage key; kept as tag ``gptworks.key``.
        params: the frozen configuration as JSON, and derived facts; flattened to dotted names, logged at creation only.
        tags: further tags, as of lineage and of the orchestrator; set again on every attempt.
        parent_run_id: the run under which the UI shows this one.
        run_id: the run to continue, when known; one that no longer exists is replaced by a new one with a warning.

    Raises:
        TrackingError: the run could not be opened. Later failures of the tracking store never reach the stage.
    """
    all_tags = _base_tags(stage, key, parent_run_id) | dict(tags or {})
    with _opening(settings):
        client = connect(settings)
        experiment_id = ensure_experiment(settings, client, f"{PREFIX}/{stage}")
        run = _find(client, experiment_id, key, run_id)
        if run is not None:
            _reopen(client, run, all_tags)
        else:
            run = _create(client, experiment_id, name, all_tags, params)
        spool = _spool(settings, client, run, f"{stage}-{key}")
    url = f"{settings.mlflow_ui}/#/experiments/{experiment_id}/runs/{run.info.run_id}"
    logger = MlflowLogger(client, spool, run_id=run.info.run_id, url=url, known_params=run.data.params)
    status, reason = "FINISHED", ""
    try:
        yield logger
    except BaseException as error:
        status = "KILLED" if is_stop(error) else "FAILED"
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        try:
            logger.close()
        finally:
            _close(client, run.info.run_id, status, reason)


def pipeline_run(
    settings: Settings,
    *,
    name: str,
    key: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
    run_id: str | None = None,
) -> AbstractContextManager[MlflowLogger]:
    """The parent run of a whole pipeline, in ``gptworks/pipeline``; otherwise as ``stage_run``."""
    return stage_run(settings, stage="pipeline", name=name, key=key, params=params, tags=tags, run_id=run_id)


def is_stop(error: BaseException) -> bool:
    """True when a run was stopped from outside (Ctrl-C, SIGTERM, cancelled), not by a fault of its own."""
    stops = (KeyboardInterrupt, InterruptedRun, asyncio.CancelledError, concurrent.futures.CancelledError)
    # Prefect's own signal is recognised by name, so that using the tracker does not import Prefect.
    names = {cls.__name__ for cls in type(error).__mro__ if cls.__module__.startswith("prefect.")}
    return isinstance(error, stops) or bool(names & {"TerminationSignal", "CancelledRun"})


def connect(settings: Settings) -> MlflowClient:
    """A client of the tracking store; the first use of a new SQLite file creates its tables, one process at a time."""
    for noisy in ("alembic", "mlflow.store.db.utils"):  # a line for each of a hundred migrations
        logging.getLogger(noisy).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    with _store_lock(settings):
        client = MlflowClient(tracking_uri=settings.mlflow_uri, registry_uri=settings.mlflow_uri)
        client.search_experiments(max_results=1)
    return client


def ensure_experiment(settings: Settings, client: MlflowClient, name: str) -> str:
    """Id of the experiment, created when missing; beside an SQLite store its artifacts get an explicit folder.

    Raises:
        TrackingError: an experiment of that name was deleted.
    """
    from mlflow.exceptions import MlflowException

    location = (settings.artifact_root / name).as_uri() if settings.mlflow_is_local else None
    with _store_lock(settings):
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=location, tags=_KIND))
            except MlflowException:
                found = client.get_experiment_by_name(name)  # a server's other client was faster
                if found is None:
                    raise
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"experiment {name!r} was deleted in MLflow; bring it back with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or remove it with `mlflow gc`"
        )
    return str(found.experiment_id)


def _store_lock(settings: Settings) -> AbstractContextManager[None]:
    # Two processes that set up the same new SQLite file at once: one of them fails.
    return (
        hold(settings.home / "mlflow.lock", purpose="the MLflow store") if settings.mlflow_is_local else nullcontext()
    )


@contextmanager
def _opening(settings: Settings) -> Iterator[None]:
    try:
        yield
    except GptcoreError:
        raise
    except Exception as error:
        raise TrackingError(
            f"MLflow at {settings.mlflow_uri} (MLFLOW_TRACKING_URI) cannot be used: {type(error).__name__}: {error}; "
            "start that server, or unset MLFLOW_TRACKING_URI to keep runs in a local SQLite file"
        ) from error


def _base_tags(stage: str, key: str, parent_run_id: str | None) -> dict[str, str]:
    parent = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
    return {
        **environment_tags(),
        "gptworks.stage": stage,
        "gptworks.key": key,
        "mlflow.user": user_name(),
        "mlflow.source.name": " ".join(sys.argv[:1]) or "python",
        "mlflow.source.type": "LOCAL",
        **parent,
    }


def _find(client: MlflowClient, experiment_id: str, key: str, run_id: str | None) -> Run | None:
    if run_id is not None:
        try:
            run = client.get_run(run_id)
        except Exception as error:
            log.warning("MLflow run %s cannot be continued (%s); a new run is opened", run_id, error)
            return None
        if run.info.lifecycle_stage == "active":
            return run
        log.warning("MLflow run %s was deleted; a new run is opened", run_id)
        return None
    open_states = "attributes.status != 'FINISHED'"
    found = client.search_runs(
        [experiment_id],
        filter_string=f"tags.`{PREFIX}.key` = '{key}' and {open_states}",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return found[0] if found else None


def _create(
    client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any]
) -> Run:
    from mlflow.entities import Param

    # Tags at creation: a crash in between must not leave a run that cannot be found by its key.
    first = {tag: value[:_MAX_TAG] for tag, value in tags.items()} | {f"{PREFIX}.attempt": "1"}
    run = client.create_run(experiment_id, run_name=name, tags=first)
    flat = [Param(key, value) for key, value in flatten(params).items()]
    for start in range(0, len(flat), _PARAMS_PER_CALL):
        client.log_batch(run.info.run_id, params=flat[start : start + _PARAMS_PER_CALL])
    return client.get_run(run.info.run_id)


def _reopen(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    attempt = int(run.data.tags.get(f"{PREFIX}.attempt", "1")) + 1
    changed = {tag: value[:_MAX_TAG] for tag, value in tags.items() if run.data.tags.get(tag) != value}
    changed[f"{PREFIX}.attempt"] = str(attempt)
    client.log_batch(run.info.run_id, tags=[RunTag(tag, value) for tag, value in changed.items()])
    if f"{PREFIX}.failure" in run.data.tags:
        client.delete_tag(run.info.run_id, f"{PREFIX}.failure")
    client.update_run(run.info.run_id, status="RUNNING")
    log.info("continuing MLflow run %s, attempt %d", run.info.run_id, attempt)


def _spool(settings: Settings, client: MlflowClient, run: Run, name: str) -> MetricSpool:
    run_id: str = run.info.run_id
    latest: dict[str, Point] = {}
    for metric in run.data.metrics:
        history = client.get_metric_history(run_id, metric)
        points = (Point(metric, point.value, point.step, point.timestamp) for point in history)
        latest[metric] = max(points, key=lambda point: (point.step, point.time_ms))
    path = settings.spool / f"{name}-{run_id[:8]}.unsent-metrics.jsonl"
    return MetricSpool(_sender(client, run_id), path=path, last=latest)


def _sender(client: MlflowClient, run_id: str) -> Callable[[Any], None]:
    from mlflow.entities import Metric

    def send(points: list[Point]) -> None:
        metrics = [Metric(point.name, point.value, point.time_ms, point.step) for point in points]
        client.log_batch(run_id, metrics=metrics, synchronous=True)

    return send


def _close(client: MlflowClient, run_id: str, status: str, reason: str) -> None:
    try:
        if reason:
            client.set_tag(run_id, f"{PREFIX}.failure", reason[:_MAX_TAG])
        client.set_terminated(run_id, status=status, end_time=int(time.time() * 1000))
    except Exception as error:
        log.warning("MLflow run %s is %s, but that could not be recorded: %s", run_id, status, error)
