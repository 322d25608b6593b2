"""Empty the workers for maintenance, and let them take work again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from flows.services.deploy import POOL, UPKEEP
from flows.services.prefect_api import ACTIVE, PrefectApi, Row, of_worker
from flows.services.processes import ServiceError

_SECONDS_BETWEEN_LOOKS = 1.0
_LONGEST_MAINTENANCE = timedelta(days=7)
DRAINED = "stopped by gptworks drain"
"""Begins the message of a run that was cancelled here, by which ``resume`` finds it again."""


def drain(
    api: PrefectApi, *, stop: bool, seconds: float, say: Callable[[str], None], except_for: Sequence[str] = ()
) -> list[Row]:
    """Pause the pool, then wait until no run is left but those of the ids ``except_for``; the runs that were there.

    With ``stop`` they are cancelled, which makes them save a checkpoint, instead of waiting for their end.

    Raises:
        ServiceError: some have not ended after ``seconds``; names them. The pool stays paused.
    """
    if api.pool(POOL) is None:
        raise ServiceError(f"{api.url} has no work pool {POOL!r}; create it with gptworks deploy")
    api.pause_pool(POOL, paused=True)
    say(f"pool {POOL} is paused: no worker takes a new run")
    there = _runs(api, except_for)
    for run in there:
        stopped = stop and run["work_queue_name"] != UPKEEP  # those end within seconds
        if stopped:
            api.cancel(run["id"], message=f"{DRAINED}; gptworks drain --resume resumes it")
        say(f"{'stopping' if stopped else 'waiting for'} {run['name']} ({run['state_name']})")
    deadline = time.monotonic() + seconds
    while left := _runs(api, except_for):
        if time.monotonic() > deadline:
            names = ", ".join(f"{run['name']} ({run['state_name']})" for run in left)
            how = "look at the worker's log" if stop else "wait longer, or stop them with a checkpoint: --stop"
            raise ServiceError(f"not ended after {seconds:.0f} s: {names}; {how}. The pool stays paused")
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return there


def resume(api: PrefectApi, *, say: Callable[[str], None]) -> list[Row]:
    """Let the pool give out work again, and resume the runs that ``drain`` stopped; those runs."""
    api.pause_pool(POOL, paused=False)
    say(f"pool {POOL} is resumed")
    recent = api.runs(states=["CANCELLED"], since=datetime.now(UTC) - _LONGEST_MAINTENANCE)
    stopped = [run for run in recent if _was_drained(api, run)]
    for run in stopped:
        api.set_state(run["id"], "SCHEDULED", name="AwaitingRetry", message="resumed after gptworks drain")
        say(f"{run['name']} resumes")
    return stopped


def _runs(api: PrefectApi, except_for: Sequence[str]) -> list[Row]:
    return [run for run in api.runs(states=ACTIVE) if of_worker(run) and run["id"] not in except_for]


def _was_drained(api: PrefectApi, run: Row) -> bool:
    """Whether the last request to cancel came from here; the final state has a message of its own."""
    states = [state for state in api.states(run["id"]) if state["type"] == "CANCELLING"] if of_worker(run) else []
    return bool(states) and str(states[-1]["message"]).startswith(DRAINED)
