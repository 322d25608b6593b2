"""Runs whose process is gone: in Prefect and in MLflow.

A process on this machine is known by its locks, which the kernel frees. One elsewhere is known to Prefect, by the signs
of life that it gives.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from flows.orchestrator.running import is_running, presence
from flows.services.deploy import UPKEEP
from flows.services.prefect_api import ACTIVE, PrefectApi, Row, of_worker
from flows.settings import Settings
from flows.store import StageStore
from flows.tracking.journal import find_journal
from flows.tracking.runs import PREFIX, connect
from flows.tracking.store import search_runs
from flows.tracking.sync import sync, waiting
from flows.upkeep.findings import Report
from gptcore.locking import is_held

if TYPE_CHECKING:
    from mlflow.entities import Run

TERMINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
"""Types of the states that a Prefect run does not leave by itself."""
SILENT = timedelta(minutes=5)
"""A run elsewhere without a heartbeat for this long is dead; runs send one a minute."""
UNBEGUN = timedelta(minutes=15)
"""A run that was taken by a worker and has not started after this long never will: a node may have to be made first."""
SETTLED = timedelta(seconds=20)
"""So long after a crash its worker may still be at it: hooks of the flow run in a process of their own."""
_CLOSED = "(closed by gptworks reconcile)"
_GRANTED = "(granted by gptworks reconcile)"
_SECONDS_TO_LOCK = 0.5
"""Between making a lock's file and locking it a process needs far less."""
_ENDED_STATES = {"COMPLETED": "FINISHED", "FAILED": "FAILED"}


@dataclass(frozen=True)
class Orphans:
    """Finds and closes them."""

    settings: Settings
    report: Report
    api: PrefectApi | None
    """Prefect's server, if one is known."""

    def close_prefect_runs(self) -> None:
        """Set each run whose process is gone to Crashed, or to Cancelled if that was asked for."""
        assert self.api is not None
        for run in self.api.runs(states=ACTIVE):
            why = self._why_gone(run)
            if not why:
                continue
            state = "Cancelled" if run["state_type"] == "CANCELLING" else "Crashed"
            if not self.report.dry_run:
                # it may have ended by itself since it was listed
                now = self.api.run(run["id"])
                if now is None or now["state_type"] not in ACTIVE:
                    continue
                self.api.set_state(run["id"], state.upper(), name=state, message=f"{why} {_CLOSED}")
                presence(self.settings.home, run["id"]).unlink(missing_ok=True)
            self.report.add("prefect run", run["name"], found=f"{run['state_name']}, but {why}", done=f"now {state}")

    def retry_crashed_runs(self, *, max_attempts: int, window: timedelta) -> None:
        """Resume crashed runs that were started fewer than ``max_attempts`` times.

        A worker reports twice that a run has crashed, and the second report would undo what is done here in between.
        """
        assert self.api is not None
        since = datetime.now(UTC) - window
        if any(self._may_be_reported_again(run) for run in self.api.runs(states=["CRASHED"], since=since)):
            time.sleep(SETTLED.seconds)
        for run in self.api.runs(states=["CRASHED"], since=since):
            if not of_worker(run) or run["work_queue_name"] == UPKEEP:
                continue
            attempts = self._attempts(run)
            if attempts >= max_attempts:
                why = f"Crashed in attempt {attempts} of at most {max_attempts}"
                self.report.add("prefect run", run["name"], found=why, done="left alone; see its log for the cause")
            elif not self._is_superseded(run):
                if not self.report.dry_run:
                    message = f"attempt {attempts + 1} of {max_attempts} {_GRANTED}"
                    self.api.set_state(run["id"], "SCHEDULED", name="AwaitingRetry", message=message)
                done = f"resumes: attempt {attempts + 1} of {max_attempts}"
                self.report.add("prefect run", run["name"], found=f"Crashed in attempt {attempts}", done=done)

    def skip_missed_runs(self) -> None:
        """Of the runs that a schedule has made and no worker has taken, keep the newest of each deployment."""
        assert self.api is not None
        late: dict[str, list[Row]] = {}
        for run in self.api.runs(names=["Late"]):
            if run["auto_scheduled"]:
                late.setdefault(run["deployment_id"], []).append(run)
        for missed in (run for runs in late.values() for run in runs[:-1]):
            message = "missed while no worker was there; a newer run of this schedule is due (gptworks reconcile)"
            if not self.report.dry_run:
                self.api.set_state(missed["id"], "CANCELLED", name="Skipped", message=message)
            found = f"due since {missed['expected_start_time']}, and so is a newer one"
            self.report.add("prefect run", missed["name"], found=found, done="now Skipped")

    def send_journals(self) -> None:
        """Send to MLflow what runs whose processes are gone have logged, and their final status."""
        left = [each for each in waiting(self.settings) if not each.owned]
        still = left if self.report.dry_run or not left else sync(self.settings)
        for each in left:
            done = "left waiting" if each.local_id in {one.local_id for one in still} else "sent"
            found = "not all of it is in MLflow, and its process is gone"
            self.report.add("mlflow run", f"{each.stage} {each.run_id or each.local_id}", found=found, done=done)

    def close_mlflow_runs(self) -> None:
        """Give each run that is left RUNNING its final status: FINISHED, FAILED or KILLED."""
        client = connect(self.settings)
        for run in search_runs(client, "attributes.status = 'RUNNING'"):
            status, why = self._final_status(run)
            name = f"{run.data.tags.get(f'{PREFIX}.stage', '')} {run.info.run_id}"
            if not status:
                if why:
                    self.report.add("mlflow run", name, found=why, done="left alone")
                continue
            if not self.report.dry_run:
                # its process closes it before it frees its locks, so if it is still open now, nobody will
                if client.get_run(run.info.run_id).info.status != "RUNNING":
                    continue
                client.set_tag(run.info.run_id, f"{PREFIX}.failure", "" if status == "FINISHED" else why)
                client.set_terminated(run.info.run_id, status=status, end_time=int(time.time() * 1000))
            self.report.add("mlflow run", name, found=f"RUNNING, but {why}", done=f"now {status}")

    def _why_gone(self, run: Row) -> str:
        """Why a Prefect run has no process; empty if it has one, or may have."""
        if is_running(self.settings.home, run["id"]):
            return ""
        if presence(self.settings.home, run["id"]).exists():
            time.sleep(_SECONDS_TO_LOCK)
            return "" if is_running(self.settings.home, run["id"]) else "its process is gone"
        now = datetime.now(UTC)
        since = datetime.fromisoformat(run["state"]["timestamp"])
        if run["state_type"] == "PENDING":
            return "it never began" if now - since > UNBEGUN else ""
        assert self.api is not None
        if now - since > SILENT and not self.api.heard_since(run["id"], now - SILENT):
            return f"it has sent no heartbeat for {SILENT.seconds // 60} minutes"
        return ""

    def _attempts(self, run: Row) -> int:
        """Number of its attempts: one that crashes before its flow begins is not counted by Prefect."""
        assert self.api is not None
        granted = sum(1 for state in self.api.states(run["id"]) if str(state["message"] or "").endswith(_GRANTED))
        return max(granted + 1, int(run["run_count"]))

    def _may_be_reported_again(self, run: Row) -> bool:
        reported = datetime.fromisoformat(run["state"]["timestamp"])
        by_worker = not str(run["state"]["message"] or "").endswith(_CLOSED)
        return not self.report.dry_run and by_worker and datetime.now(UTC) - reported < SETTLED

    def _is_superseded(self, run: Row) -> bool:
        """Whether the same work was asked for again since, and is done or being done."""
        assert self.api is not None
        later = self.api.runs(states=[*ACTIVE, "COMPLETED"])
        same = ("deployment_id", "parameters")
        return any(
            all(other[name] == run[name] for name in same) and other["created"] > run["created"] for other in later
        )

    def _final_status(self, run: Run) -> tuple[str, str]:
        """The final status of a run that MLflow takes for running, and the reason; no status if it may still run."""
        tags = run.data.tags
        stage, key = tags.get(f"{PREFIX}.stage", ""), tags.get(f"{PREFIX}.key", "")
        flow_run = tags.get("prefect.flow_run_id", "")
        journal = find_journal(self.settings.spool, tags.get(f"{PREFIX}.local_run", ""))
        if journal is not None and journal.owned:
            return "", ""
        store = StageStore(self.settings.store)
        if is_held(store.lock(stage, key)) or (flow_run and is_running(self.settings.home, flow_run)):
            return "", ""
        entry = store.find(stage, key)
        if entry is not None and entry.run_id == run.info.run_id:
            return "FINISHED", "its output is whole"
        found = self.api.run(flow_run) if self.api is not None and flow_run else None
        if found is not None and found["state_type"] in TERMINAL:
            return _ENDED_STATES.get(found["state_type"], "KILLED"), f"its flow run is {found['state_name']}"
        if flow_run and presence(self.settings.home, flow_run).exists():
            return "KILLED", "its process is gone"
        here = (socket.gethostname(), str(self.settings.home))
        if (tags.get(f"{PREFIX}.host"), tags.get(f"{PREFIX}.home")) == here:
            return "KILLED", "its process is gone"
        return "", f"RUNNING on {tags.get(f'{PREFIX}.host', 'a machine that is not named')}, which is not this one"
