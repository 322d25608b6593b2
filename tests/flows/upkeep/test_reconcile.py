"""What killed processes leave on disk and in MLflow, without any server; servers are in tests/flows/services."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.orchestrator.running import presence
from flows.tracking.store import PREFIX, stage_experiment
from flows.upkeep import reconcile
from gptcore.locking import hold

pytestmark = pytest.mark.flows
KEY = "0123456789abcdef"
GONE = 2**22 + 1
"""No process has this number."""


def left_running(place: Any, **tags: str) -> str:
    """A run that MLflow takes for running; gives its id."""
    own = {"stage": "pretrain", "key": KEY, "host": socket.gethostname(), "home": str(place.settings.home)}
    experiment = stage_experiment(place.settings, place.client, "pretrain")
    named = {f"{PREFIX}.{name}": value for name, value in own.items()} | tags
    return str(place.client.create_run(experiment, tags=named).info.run_id)


def status(place: Any, run_id: str) -> str:
    return str(place.client.get_run(run_id).info.status)


def told(place: Any, what: str, **options: Any) -> list[tuple[str, str]]:
    """Found and done of the findings that name something."""
    report = reconcile(place.settings, api_url="", **options)
    return [(one.found, one.done) for one in report.findings if what in one.what]


def test_a_run_whose_process_is_gone_is_killed(place: Any) -> None:
    run_id = left_running(place)
    assert told(place, run_id, dry_run=True) == [("RUNNING, but its process is gone", "now KILLED")]
    assert status(place, run_id) == "RUNNING"
    assert told(place, run_id) == [("RUNNING, but its process is gone", "now KILLED")]
    assert status(place, run_id) == "KILLED"
    assert place.client.get_run(run_id).data.tags[f"{PREFIX}.failure"] == "its process is gone"
    assert told(place, run_id) == []


def test_a_run_whose_process_lives_is_left_alone(place: Any) -> None:
    run_id = left_running(place)
    with hold(place.store.lock("pretrain", KEY)):
        assert told(place, run_id) == []
    pipeline = left_running(place, **{f"{PREFIX}.key": "f" * 16, "prefect.flow_run_id": "7"})
    with hold(presence(place.settings.home, "7")):
        assert told(place, pipeline) == []
    assert status(place, pipeline) == "RUNNING"
    assert told(place, pipeline) == [("RUNNING, but its process is gone", "now KILLED")]


def test_a_run_whose_output_is_whole_is_finished(place: Any, output: Callable[..., Any]) -> None:
    run_id = left_running(place)
    output("pretrain", KEY, run=run_id)
    assert told(place, run_id) == [("RUNNING, but its output is whole", "now FINISHED")]
    assert status(place, run_id) == "FINISHED"
    assert not place.client.get_run(run_id).data.tags.get(f"{PREFIX}.failure")


@pytest.mark.parametrize("other", [{f"{PREFIX}.host": "elsewhere"}, {f"{PREFIX}.home": "/another/folder"}])
def test_a_run_of_another_machine_or_folder_is_told_and_left_alone(place: Any, other: dict[str, str]) -> None:
    run_id = left_running(place, **other)
    ((found, done),) = told(place, run_id)
    assert "which is not this one" in found
    assert done == "left alone"
    assert status(place, run_id) == "RUNNING"
    place.client.set_terminated(run_id, "KILLED")


def test_a_server_that_is_away_is_told_and_the_rest_is_done(place: Any) -> None:
    partial = place.settings.store / "pretrain" / f"{KEY}.work" / f"weights.tmp-{GONE}"
    partial.mkdir(parents=True)
    report = reconcile(place.settings, api_url="http://127.0.0.1:9/api")
    (server,) = [one for one in report.findings if one.kind == "server"]
    assert "Prefect at http://127.0.0.1:9/api does not answer" in server.found
    assert server.done == "its runs are left alone"
    assert not partial.exists()


def test_half_written_files_go_when_nobody_writes_them(place: Any) -> None:
    stage = place.settings.store / "pretrain"
    work = stage / f"{KEY}.work"
    work.mkdir(parents=True)
    mine, gone, inside = stage / f"a.tmp-{os.getpid()}", stage / f"b.tmp-{GONE}", work / f"c.tmp-{os.getpid()}"
    for path in (mine, gone, inside):
        path.write_text("half")
    kept = work / "whole"
    kept.write_text("whole")
    with hold(place.store.lock("pretrain", KEY)):
        reconcile(place.settings, api_url="")
        assert (mine.exists(), gone.exists(), inside.exists()) == (True, False, True)
    report = reconcile(place.settings, api_url="")
    assert (mine.exists(), inside.exists(), kept.exists()) == (True, False, True)
    assert [one.what for one in report.findings if one.kind == "file"] == [str(inside)]
    old = time.time() - 7200
    os.utime(mine, (old, old))
    reconcile(place.settings, api_url="")
    assert not mine.exists(), "another machine's process may have that number here"


def test_what_a_new_output_has_replaced_goes(place: Any, output: Callable[..., Any]) -> None:
    entry = output("pretrain", KEY)
    aside = entry.path.with_name(f"{KEY}.replaced-1")
    aside.mkdir()
    reconcile(place.settings, api_url="")
    assert not aside.exists()
    assert place.store.find("pretrain", KEY) is not None


def test_locks_of_nothing_go_and_others_stay(place: Any, output: Callable[..., Any]) -> None:
    output("pretrain", KEY)
    orphan = place.store.lock("pretrain", "f" * 16)
    held = place.store.lock("pretrain", "e" * 16)
    run = presence(place.settings.home, "7")
    for lock in (orphan, run):
        with hold(lock):
            pass
    with hold(held):
        report = reconcile(place.settings, api_url="")
    assert [one.what for one in report.findings if one.kind == "lock"] == [
        str(lock.relative_to(place.settings.home)) for lock in sorted([orphan, run])
    ]
    assert not orphan.exists()
    assert not run.exists()
    assert held.exists()
    assert place.store.lock("pretrain", KEY).exists()


def test_where_all_is_in_order_nothing_is_found(place: Any, output: Callable[..., Any], tmp_path: Path) -> None:
    output("pretrain", KEY)
    before = sorted(place.settings.home.rglob("*"))
    own = [one for one in reconcile(place.settings, api_url="").findings if str(tmp_path) in one.what]
    assert own == []
    assert sorted(place.settings.home.rglob("*")) == before
