"""Which flow runs have a process on this machine: each holds a lock that is free the moment the process ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptcore.locking import hold, is_held


def presence(home: Path, flow_run_id: str) -> Path:
    """The lock of a flow run; the file is there while it runs, and stays when its process is killed."""
    return home / "running" / f"{flow_run_id}.lock"


def is_running(home: Path, flow_run_id: str) -> bool:
    """Whether a process on this machine runs it now, with this project folder."""
    return is_held(presence(home, flow_run_id))


@contextmanager
def present(home: Path) -> Iterator[None]:
    """Be known as the process of the flow run that calls this; outside a flow nothing happens."""
    from prefect.runtime import flow_run

    if not flow_run.id:
        yield
        return
    path = presence(home, str(flow_run.id))
    with hold(path, purpose=f"flow run {flow_run.name}"):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
