"""State of services, workers and waiting runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flows.services.deploy import POOL
from flows.services.prefect_api import ACTIVE, PrefectApi, Row
from flows.services.processes import ServiceError, answers
from flows.services.state import NAMES, State
from flows.services.worker import worker_name

WAITING = ("Scheduled", "Late", "AwaitingRetry", "AwaitingConcurrencySlot")
"""Names of the states of a run that nobody works on yet."""


@dataclass(frozen=True)
class Line:
    """One server or worker."""

    name: str
    state: str
    """``well``, ``no answer``, ``dead``, ``paused`` or ``not started``."""
    where: str
    """Its address, or what it does."""
    log: str


@dataclass
class Report:
    """State of all services."""

    lines: list[Line]
    runs: list[Row] = field(default_factory=list)
    """Flow runs that somebody works on."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Queue -> how many runs are due."""
    names: dict[str, str] = field(default_factory=dict)
    """Flow id -> name."""

    @property
    def well(self) -> bool:
        """Whether everything that was started is alive and answers."""
        return all(line.state in ("well", "paused") for line in self.lines)


def report(state: State, api_url: str) -> Report:
    """Look at what was started here, and at Prefect's server, wherever it is; ``api_url`` is empty if none is known."""
    lines = [_line(state, name) for name in NAMES] if state.members else []
    found = Report(lines)
    if not api_url:
        return found
    try:
        with PrefectApi(api_url, seconds=5) as api:
            _ask(api, found)
    except ServiceError as error:
        found.lines.append(Line("pool", "no answer", str(error), ""))
    return found


def _line(state: State, name: str) -> Line:
    member = state.members.get(name)
    if member is None:
        return Line(name, "not started", "", "")
    if not member.process.alive:
        return Line(name, "dead", member.url or worker_name(), member.log)
    health = {"prefect": "/api/ready", "mlflow": "/health"}
    well = name not in health or answers(member.url + health[name])
    return Line(name, "well" if well else "no answer", member.url or worker_name(), member.log)


def _ask(api: PrefectApi, found: Report) -> None:
    pool = api.pool(POOL)
    if pool is None:
        found.lines.append(Line("pool", "not started", f"{POOL} is missing; create it with gptworks deploy", ""))
        return
    online = sum(worker["status"] == "ONLINE" for worker in api.workers(POOL))
    text = f"{POOL} ({pool['type']}), {online} worker{'' if online == 1 else 's'} online"
    found.lines.append(Line("pool", "paused" if pool["is_paused"] else "well", text, ""))
    found.names = api.flow_names()
    found.runs = api.runs(states=ACTIVE)
    now = datetime.now(UTC)
    due = [run for run in api.runs(names=WAITING) if datetime.fromisoformat(run["expected_start_time"]) <= now]
    queues = Counter(run["work_queue_name"] or "-" for run in due)
    found.waiting = {queue["name"]: queues.pop(queue["name"], 0) for queue in api.queues(POOL)} | dict(queues)
