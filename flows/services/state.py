"""What ``gptworks up`` has started: one JSON file below the project's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flows.services.processes import Process
from gptcore.files import write_json
from gptcore.locking import hold

NAMES = ("prefect", "mlflow", "worker")
"""In the order in which they are started; they are ended in the opposite one."""


@dataclass(frozen=True)
class Member:
    """One server or worker."""

    process: Process
    url: str
    """Where it answers; empty for a worker."""
    log: str
    """File of its output."""


@dataclass
class State:
    """Everything that was started for one project folder."""

    members: dict[str, Member] = field(default_factory=dict)
    """By name: prefect, mlflow, worker."""

    @property
    def api(self) -> str:
        """Address of Prefect's API, empty if that server was not started."""
        return f"{self.members['prefect'].url}/api" if "prefect" in self.members else ""

    @property
    def addresses(self) -> dict[str, str]:
        """The two variables that lead every command to these servers."""
        mlflow = self.members.get("mlflow")
        found = {"PREFECT_API_URL": self.api, "MLFLOW_TRACKING_URI": mlflow.url if mlflow else ""}
        return {name: value for name, value in found.items() if value}

    def alive(self, name: str) -> bool:
        """Whether a member was started and still runs."""
        return name in self.members and self.members[name].process.alive


def state_path(home: Path) -> Path:
    """The state file of a project folder."""
    return home / "services.json"


def read_state(home: Path) -> State:
    """What was started; nothing if there is no file."""
    path = state_path(home)
    if not path.is_file():
        return State()
    data = json.loads(path.read_text(encoding="utf-8"))
    return State({name: Member(Process(**of.pop("process")), **of) for name, of in data["members"].items()})


def write_state(home: Path, state: State) -> None:
    """Keep the state, or remove the file if nothing is left."""
    if state.members:
        write_json(state_path(home), asdict(state))
    else:
        state_path(home).unlink(missing_ok=True)


@contextmanager
def changing(home: Path) -> Iterator[State]:
    """The state, to be changed by one command at a time; written at the end, also after an error.

    Raises:
        LockedError: another command is at work.
    """
    with hold(home / "services.lock", wait=False, purpose=f"starting or stopping the services of {home}"):
        state = read_state(home)
        try:
            yield state
        finally:
            write_state(home, state)


def running_addresses(home: Path) -> Mapping[str, str]:
    """The addresses of the servers that run for a project folder; empty while one of them does not."""
    state = read_state(home)
    return state.addresses if state.alive("prefect") and state.alive("mlflow") else {}
