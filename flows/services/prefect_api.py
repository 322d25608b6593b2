"""Prefect's REST interface, as far as looking after its runs needs it.

Not Prefect's own client: importing that takes seconds, and these commands are asked often.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import httpx

from flows.services.processes import ServiceError

Row = dict[str, Any]
"""One object as the server returns it."""

_PAGE = 200
_SECONDS_BUSY = 60.0
"""How long a server may say that it is busy."""
_SECONDS_BETWEEN_TRIES = 0.5
ACTIVE = ("PENDING", "RUNNING", "CANCELLING")
"""State types of a run that somebody works on, or is about to."""


def of_worker(run: Row) -> bool:
    """Whether a flow run is one that a worker runs; the flows inside of it end with it."""
    return bool(run["deployment_id"]) and not run["parent_task_run_id"]


class PrefectApi:
    """A connection to one server; use it as a context manager."""

    def __init__(self, url: str, *, auth: str | None = None, seconds: float = 20.0) -> None:
        """Connect to the API at ``url``; ``auth`` is user:password, by default that of PREFECT_API_AUTH_STRING."""
        self.url = url.rstrip("/")
        user, _, password = (auth or os.environ.get("PREFECT_API_AUTH_STRING", "")).partition(":")
        self._http = httpx.Client(
            base_url=self.url,
            timeout=seconds,
            auth=(user, password) if user else None,
            trust_env=False,
            transport=httpx.HTTPTransport(retries=2),
        )

    def __enter__(self) -> Self:
        """The connection itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self._http.close()

    def runs(
        self, *, states: Sequence[str] = (), names: Sequence[str] = (), since: datetime | None = None
    ) -> list[Row]:
        """Flow runs, oldest first.

        Args:
            states: state types; all if none are given.
            names: names of states, as ``Late``; all if none are given.
            since: only those that ended after it.
        """
        wanted: Row = {}
        if states:
            wanted.setdefault("state", {})["type"] = {"any_": list(states)}
        if names:
            wanted.setdefault("state", {})["name"] = {"any_": list(names)}
        if since is not None:
            wanted["end_time"] = {"after_": since.isoformat()}
        return self._all("/flow_runs/filter", {"flow_runs": wanted, "sort": "EXPECTED_START_TIME_ASC"})

    def run(self, run_id: str) -> Row | None:
        """One flow run, or None if the server has none of this id."""
        answer = self._send("GET", f"/flow_runs/{run_id}", missing_ok=True)
        return None if answer is None else dict(answer)

    def states(self, run_id: str) -> list[Row]:
        """The states that a run has been in, oldest first."""
        found = self._send("GET", f"/flow_run_states/?flow_run_id={run_id}")
        return sorted(found, key=lambda state: str(state["timestamp"]))

    def heard_since(self, run_id: str, moment: datetime) -> bool:
        """Whether a run has sent a heartbeat after a moment."""
        body = {
            "filter": {
                "event": {"name": ["prefect.flow-run.heartbeat"]},
                "resource": {"id": [f"prefect.flow-run.{run_id}"]},
                "occurred": {"since": moment.isoformat()},
            },
            "limit": 1,
        }
        return bool(self._send("POST", "/events/filter", body)["events"])

    def set_state(self, run_id: str, kind: str, *, name: str, message: str) -> str:
        """Put a run into a state, whatever the server's rules say of the transition; gives what became of it."""
        state = {"type": kind, "name": name, "message": message}
        answer = self._send("POST", f"/flow_runs/{run_id}/set_state", {"state": state, "force": True})
        return str(answer["status"])

    def cancel(self, run_id: str, *, message: str) -> None:
        """Ask the worker of a run to cancel it."""
        state = {"type": "CANCELLING", "name": "Cancelling", "message": message}
        self._send("POST", f"/flow_runs/{run_id}/set_state", {"state": state, "force": False})

    def deployments(self) -> list[Row]:
        """Every deployment."""
        return self._all("/deployments/filter", {})

    def flow_names(self) -> dict[str, str]:
        """Flow id -> name."""
        return {flow["id"]: flow["name"] for flow in self._all("/flows/filter", {})}

    def pool(self, name: str) -> Row | None:
        """A work pool, or None."""
        answer = self._send("GET", f"/work_pools/{name}", missing_ok=True)
        return None if answer is None else dict(answer)

    def put_pool(self, name: str, *, kind: str, template: Mapping[str, Any]) -> None:
        """Create a work pool, or give an existing one this template.

        Raises:
            ServiceError: a pool of this name has another type.
        """
        found = self.pool(name)
        if found is None:
            self._send("POST", "/work_pools/", {"name": name, "type": kind, "base_job_template": dict(template)})
            return
        if found["type"] != kind:
            raise ServiceError(
                f"expected a work pool {name!r} of type {kind!r}, got {found['type']!r}; "
                f"choose another name with --pool, or remove it: prefect work-pool delete {name}"
            )
        self._send("PATCH", f"/work_pools/{name}", {"base_job_template": dict(template)})

    def pause_pool(self, name: str, *, paused: bool) -> None:
        """Pause or resume a pool."""
        self._send("PATCH", f"/work_pools/{name}", {"is_paused": paused})

    def put_queue(self, pool: str, name: str, *, limit: int | None, priority: int) -> None:
        """Create a queue of a pool, or change an existing one."""
        facts: Row = {"concurrency_limit": limit, "priority": priority}
        if self._send("GET", f"/work_pools/{pool}/queues/{name}", missing_ok=True) is None:
            self._send("POST", f"/work_pools/{pool}/queues", {"name": name, **facts})
        else:
            self._send("PATCH", f"/work_pools/{pool}/queues/{name}", facts)

    def queues(self, pool: str) -> list[Row]:
        """The queues of a pool."""
        return list(self._send("POST", f"/work_pools/{pool}/queues/filter", {}))

    def workers(self, pool: str) -> list[Row]:
        """The workers that a pool has seen."""
        return list(self._send("POST", f"/work_pools/{pool}/workers/filter", {}))

    def _all(self, path: str, body: Row) -> list[Row]:
        found: list[Row] = []
        while True:
            page = self._send("POST", path, {**body, "limit": _PAGE, "offset": len(found)})
            found += page
            if len(page) < _PAGE:
                return found

    def _send(self, method: str, path: str, body: Row | None = None, *, missing_ok: bool = False) -> Any:
        until = time.monotonic() + _SECONDS_BUSY
        try:
            answer = self._http.request(method, path, json=body)
            # with SQLite behind it, a server that waits for the database says so and has done nothing
            while answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and time.monotonic() < until:
                time.sleep(_SECONDS_BETWEEN_TRIES)
                answer = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ServiceError(
                f"Prefect at {self.url} does not answer ({type(error).__name__}: {error}); start it with gptworks up, "
                "or set PREFECT_API_URL to a running server"
            ) from error
        if answer.status_code == httpx.codes.NOT_FOUND and missing_ok:
            return None
        if not answer.is_success:
            reason = f"{answer.status_code} {answer.text[:300]}"
            raise ServiceError(f"Prefect at {self.url} refuses {method} {path}: {reason}")
        return answer.json() if answer.content else None
