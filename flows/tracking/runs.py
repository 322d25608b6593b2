"""Tracked runs: opening them, and closing them with their true status.

One experiment per stage (``gptworks/pretrain``, ...), so that its table compares like with like. A run is a journal
on the local disk (``flows/tracking/journal.py``) that a thread brings to MLflow (``flows/tracking/shipper.py``): a
training neither waits for MLflow nor loses anything when it is away.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from flows.settings import Settings
from flows.tracking.journal import Journal, find_unfinished, is_local, new_run_id, open_journal
from flows.tracking.logger import MlflowLogger, flatten
from flows.tracking.provenance import environment_tags, user_name
from flows.tracking.shipper import shipper_of
from flows.tracking.store import PREFIX, TrackingError, connect
from gptcore.errors import InterruptedRun, LockedError

__all__ = ["PREFIX", "TrackingError", "connect", "is_stop", "pipeline_run", "stage_run"]

_SECONDS_WHEN_STOPPED = 10.0
"""Who cancels a flow kills its processes after 30 seconds."""

log = logging.getLogger(__name__)


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
    about: str = "",
) -> Iterator[MlflowLogger]:
    """Open the tracked run of one stage, and close it with its true status: FINISHED, FAILED or KILLED.

    Whether MLflow answers makes no difference here. An unfinished run with this key is continued, so commit the stage's
    output inside the block: a run that is FINISHED is never opened again except by its id.

    Args:
        settings: where MLflow is.
        stage: names the experiment, ``gptworks/<stage>``.
        name: the run's name in the UI.
        key: the stage key; kept as tag ``gptworks.key``.
        params: the frozen configuration as JSON, and derived facts; flattened to dotted names, logged at creation only.
        tags: further tags, as of lineage and of the orchestrator; set again on every attempt.
        parent_run_id: the run under which the UI shows this one; its own id or MLflow's.
        run_id: the run to continue, its own id or MLflow's. One that MLflow no longer has is replaced by a new one
            with a warning; an id of ``flows.tracking.journal.new_run_id`` that nobody has yet is that of the new run.
        about: what the runs of the experiment are; where ``flows.tracking.notes`` describes it, nothing.
    """
    every = _base_tags(stage, key, parent_run_id) | dict(tags or {})
    with _journal(settings, stage, key, run_id) as journal:
        continued = journal.header() is not None
        if not continued:
            header = {
                "stage": stage,
                "name": name,
                "key": key,
                "params": flatten(params),
                "tags": every,
                "about": about,
            }
            continues = run_id if run_id is not None and not is_local(run_id) else None
            journal.append("run", **header, continues=continues, time=int(time.time() * 1000))
        else:
            journal.append("begin", tags=every)
        journal.sync()
        logger = MlflowLogger(journal, shipper_of(settings), ui=settings.mlflow_ui, continued=continued)
        try:
            yield logger
        except BaseException as error:
            stopped = is_stop(error)
            reason = f"{type(error).__name__}: {error}"
            if stopped:
                logger.close(status="KILLED", reason=reason, stall=_SECONDS_WHEN_STOPPED)
            else:
                logger.close(status="FAILED", reason=reason)
            raise
        logger.close(status="FINISHED")


@contextmanager
def _journal(settings: Settings, stage: str, key: str, run_id: str | None) -> Iterator[Journal]:
    """The journal to write: that of the run that is continued, or a new one."""
    with ExitStack() as held:
        journal = find_unfinished(settings.spool, stage=stage, key=key) if run_id is None else None
        if journal is not None:
            try:
                held.enter_context(journal.writing())
            except LockedError:  # another process was faster
                journal = None
        if journal is None:
            journal = open_journal(settings.spool, stage=stage, key=key, run_id=run_id or new_run_id())
            held.enter_context(journal.writing(wait=True))
        yield journal


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
    return isinstance(error, stops) or bool(names & {"TerminationSignal", "CancelledRun", "Pause"})


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
