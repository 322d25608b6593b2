"""What is still on its way to MLflow: bring it there, find runs by their own ids, and forget what is old."""

from __future__ import annotations

import time
from dataclasses import dataclass

from flows.settings import Settings
from flows.tracking.journal import is_local, journals
from flows.tracking.shipment import NotYet
from flows.tracking.shipper import shipper_of
from flows.tracking.store import connect, find_run_id

_SECONDS_WITHOUT_PROGRESS = 120.0


@dataclass(frozen=True)
class Waiting:
    """A run of which MLflow lacks something."""

    stage: str
    key: str
    local_id: str
    """The run's own id."""
    run_id: str | None
    """MLflow's, once there is one."""
    owned: bool
    """Whether the process that the run belongs to is alive, and sends it itself."""


def waiting(settings: Settings) -> list[Waiting]:
    """The runs of which MLflow lacks something, oldest first; asks nobody but the local disk."""
    found = []
    for journal in journals(settings.spool):
        header = journal.header()
        if header is not None and not journal.settled:
            run_id = journal.state().run_id
            found.append(Waiting(header["stage"], header["key"], journal.id, run_id, journal.owned))
    return found


def sync(settings: Settings) -> list[Waiting]:
    """Bring to MLflow what earlier processes have left behind, and close the runs of those that died as KILLED.

    For the command, for a start, and for a flow that looks after what was left; two at once do no harm.

    Returns:
        what still waits although its process is gone; empty when MLflow has everything.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    connect(settings)
    shipper = shipper_of(settings)
    shipper.sweep()
    shipper.wait_for_all(stall=_SECONDS_WITHOUT_PROGRESS)
    return [each for each in waiting(settings) if not each.owned]


def find_mlflow_id(settings: Settings, run_id: str) -> str | None:
    """MLflow's id of a run that is known by its own id or by MLflow's; None if MLflow does not have it yet.

    Raises:
        TrackingError: MLflow has to be asked and cannot be reached.
    """
    if not is_local(run_id):
        return run_id
    try:
        return find_run_id(settings, connect(settings), run_id)
    except NotYet:
        return None


def forget(settings: Settings, *, older_than_days: float) -> int:
    """Remove journals of runs that ended badly and that MLflow has whole; the number removed.

    Such a run can still be continued: what MLflow has of it is then asked for instead.
    """
    oldest, n = time.time() - older_than_days * 86_400, 0
    for journal in journals(settings.spool):
        if journal.settled and not journal.owned and journal.path.stat().st_mtime < oldest:
            journal.remove()
            n += 1
    return n
