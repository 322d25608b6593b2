"""Real processes are killed at chosen points: afterwards one run per key, no point twice, and a true status."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows.tracking.runs import PREFIX

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(900)]
STEPS, LOGGED = 1200, 20
SLOW_ENOUGH = (
    f"pretrain.train.steps={STEPS}",
    f"pretrain.train.log_every={LOGGED}",
    f"pretrain.train.eval_every={STEPS}",
)
SECONDS_OF_GRACE = 30


def asked(number: int, *, checkpoint_every: int = 20) -> dict[str, Any]:
    """Parameters of a training of some seconds; each number is a key of its own on the same data."""
    own = (f"pretrain.train.checkpoint_every={checkpoint_every}", f"pretrain.train.optimizer.lr=0.001{number:02d}")
    return {"preset": "tiny", "overrides": [*SLOW_ENOUGH, *own]}


def begin(machine: Any, number: int, **options: Any) -> str:
    """A training that has written its first checkpoint."""
    before = time.time()
    run_id: str = machine.run("pretrain/demo", **asked(number, **options))
    machine.wait_for_checkpoint("pretrain", after=before)
    return run_id


def check(machine: Any, run_id: str, *, attempts: int) -> Any:
    """It ended well, in one MLflow run without a gap or a point twice, and nothing is left; gives that run."""
    found = machine.wait(run_id, "Completed")
    assert found["run_count"] == attempts
    tracked = run_of(machine, run_id)
    assert tracked.info.status == "FINISHED"
    assert f"{PREFIX}.failure" not in tracked.data.tags or not tracked.data.tags[f"{PREFIX}.failure"]
    same_key = [
        r for r in machine.tracked("pretrain") if r.data.tags[f"{PREFIX}.key"] == tracked.data.tags[f"{PREFIX}.key"]
    ]
    assert len(same_key) == 1
    assert machine.steps(tracked) == list(range(LOGGED, STEPS + 1, LOGGED))
    folder = machine.home / "store" / "pretrain"
    assert (folder / tracked.data.tags[f"{PREFIX}.key"] / "manifest.json").is_file()
    assert not (folder / f"{tracked.data.tags[f'{PREFIX}.key']}.work").exists()
    machine.wait_for_no_flow()
    return tracked


def run_of(machine: Any, run_id: str) -> Any:
    (tracked,) = [r for r in machine.tracked("pretrain") if r.data.tags["prefect.flow_run_id"] == run_id]
    return tracked


def cancel(machine: Any, run_id: str) -> float:
    """As a user does; gives the seconds until it is Cancelled."""
    command = [sys.executable, "-m", "prefect", "flow-run", "cancel", run_id]
    variables = {**machine.environment, **machine.state.addresses, "PREFECT_HOME": str(machine.home / "prefect")}
    subprocess.run(command, env=variables, check=True, capture_output=True, timeout=120)
    asked_at = time.monotonic()
    machine.wait(run_id, "Cancelled", seconds=120)
    return time.monotonic() - asked_at


def test_a_killed_flow_goes_on_from_its_checkpoint_in_the_same_tracked_run(machine: Any) -> None:
    run_id = begin(machine, 1)
    machine.kill(machine.pid(run_id))
    machine.wait(run_id, "Crashed")
    assert run_of(machine, run_id).info.status == "RUNNING", "nobody has said yet how it ended"
    looked = machine.command("reconcile", "--dry-run")
    assert "resumes: attempt 2 of 3" in looked
    assert machine.read(run_id)["state_name"] == "Crashed"
    told = machine.command("reconcile")
    assert "its process is gone" in told
    assert "resumes: attempt 2 of 3" in told
    tracked = check(machine, run_id, attempts=2)
    assert tracked.data.tags[f"{PREFIX}.attempt"] == "2"


def test_a_run_that_crashes_again_and_again_is_left_at_last(machine: Any) -> None:
    run_id = begin(machine, 2)
    machine.kill(machine.pid(run_id))
    machine.wait(run_id, "Crashed")
    told = machine.command("reconcile", "--max-attempts", "1")
    assert "Crashed in attempt 1 of at most 1" in told
    assert machine.read(run_id)["state_name"] == "Crashed"
    assert run_of(machine, run_id).info.status == "KILLED"
    machine.command("reconcile")
    check(machine, run_id, attempts=2)


def test_a_killed_worker_leaves_its_flow_alone_and_up_starts_another(machine: Any) -> None:
    run_id = begin(machine, 3)
    machine.kill_service("worker")
    assert "worker │ dead" in machine.command("status", code=1)
    told = machine.command("up", "--limit", "2")
    assert "worker has died since it was started" in told
    check(machine, run_id, attempts=1)


def test_a_flow_killed_together_with_its_worker_is_found_and_goes_on(machine: Any) -> None:
    run_id = begin(machine, 4)
    pid = machine.pid(run_id)
    machine.kill_service("worker")
    machine.kill(pid)
    time.sleep(3)
    assert machine.read(run_id)["state_name"] == "Running", "nobody is left who could tell"
    machine.command("up", "--limit", "2")  # whose worker looks after them first
    check(machine, run_id, attempts=2)


def test_a_killed_prefect_server_costs_no_step(machine: Any) -> None:
    run_id = begin(machine, 5)
    machine.kill_service("prefect")
    assert "prefect │ dead" in machine.command("status", code=1)
    machine.command("up", "--limit", "2")
    names = ("Completed", "Crashed", "Failed")
    ended = machine.wait(run_id, *names)
    if ended["state_name"] != "Completed":
        machine.command("reconcile")
    check(machine, run_id, attempts=machine.wait(run_id, "Completed")["run_count"])


def test_a_killed_mlflow_server_costs_no_point(machine: Any) -> None:
    run_id = begin(machine, 6)
    machine.kill_service("mlflow")
    time.sleep(2)
    machine.command("up", "--limit", "2")
    check(machine, run_id, attempts=1)


def test_two_runs_of_the_same_work_train_once(machine: Any) -> None:
    first, second = (machine.run("pretrain/demo", **asked(7)) for _ in range(2))
    ended = [machine.wait(run_id, "Completed") for run_id in (first, second)]
    assert [run["run_count"] for run in ended] == [1, 1]
    runs = [r for r in machine.tracked("pretrain") if r.data.tags["prefect.flow_run_id"] in (first, second)]
    assert [(run.info.status, run.data.tags[f"{PREFIX}.attempt"]) for run in runs] == [("FINISHED", "1")]
    check(machine, runs[0].data.tags["prefect.flow_run_id"], attempts=1)


@pytest.mark.parametrize(("number", "checkpoint_every"), [(8, 20), (9, 3)], ids=["training", "writing checkpoints"])
def test_a_cancelled_run_saves_is_told_truly_and_goes_on_when_asked_again(
    machine: Any, number: int, checkpoint_every: int
) -> None:
    run_id = begin(machine, number, checkpoint_every=checkpoint_every)
    assert cancel(machine, run_id) < SECONDS_OF_GRACE + 15  # the worker looks every few seconds
    tracked = run_of(machine, run_id)
    assert tracked.info.status == "KILLED"
    machine.wait_for_no_flow()
    key = tracked.data.tags[f"{PREFIX}.key"]
    saved = sorted((machine.home / "store" / "pretrain" / f"{key}.work" / "run" / "checkpoints").iterdir())
    assert saved
    again = machine.run("pretrain/demo", **asked(number, checkpoint_every=checkpoint_every))
    assert check(machine, again, attempts=1).info.run_id == tracked.info.run_id


def test_drain_empties_the_worker_and_resume_has_the_run_go_on(machine: Any) -> None:
    run_id = begin(machine, 10)
    told = machine.command("drain", "--stop")
    assert re.search(r"empty: \d runs? ended", told)
    assert machine.read(run_id)["state_name"] == "Cancelled"
    assert run_of(machine, run_id).info.status == "KILLED"
    assert "pool │ paused" in machine.command("status")
    waiting = machine.run("pretrain/demo", **asked(11))
    time.sleep(8)
    assert machine.read(waiting)["state_name"] in ("Scheduled", "Late")
    told = machine.command("drain", "--resume")
    assert "resumes" in told
    machine.wait(waiting, "Completed")
    check(machine, run_id, attempts=2)
    check(machine, waiting, attempts=1)


def test_down_hands_the_run_over_and_the_next_up_has_it_go_on(machine: Any) -> None:
    run_id = begin(machine, 12)
    started = [member.process for member in machine.state.members.values()]
    machine.command("down")
    assert [process for process in started if process.alive] == []
    machine.command("up", "--prefect-port", "0", "--mlflow-port", "0", "--limit", "2")
    check(machine, run_id, attempts=2)


def test_of_a_schedule_missed_five_times_one_run_is_made_up_for(machine: Any) -> None:
    machine.kill_service("worker")
    now = datetime.now(UTC)
    deployment = machine.deployment("reconcile", "quarter-hourly")
    missed = {"start_time": (now - timedelta(minutes=106)).isoformat(), "end_time": now.isoformat()}
    machine.post(f"/deployments/{deployment}/schedule", missed)
    late: list[Any] = []
    deadline = time.monotonic() + 120
    while len(late) < 5 and time.monotonic() < deadline:
        time.sleep(1)
        with machine.api as api:
            late = [run for run in api.runs(names=["Late"]) if run["deployment_id"] == deployment]
    assert len(late) >= 5
    machine.command("up", "--limit", "2")
    states = [machine.read(run["id"])["state_name"] for run in late]
    assert states[:-1] == ["Skipped"] * (len(late) - 1)
    machine.wait(late[-1]["id"], "Completed")


def test_nothing_is_left_running_or_half_written(machine: Any) -> None:
    told = machine.command("reconcile")
    assert "RUNNING" not in told
    assert list((machine.home / "store").rglob("*.tmp-*")) == []
    assert {run.info.status for run in machine.tracked("pretrain")} == {"FINISHED"}
