"""``retrain/nightly`` on a machine with all services: promotes, skips, starts early by an event, waits for a person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from time import monotonic, sleep
from typing import Any

import httpx
import pytest

from flows.registry.versions import Aliases, ModelRegistry

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(1800)]
MODEL = "gptworks-tiny"
NIGHTLY = "retrain/nightly"


def rows(numbers: Sequence[int]) -> str:
    made = (
        {"instruction": f"Add {i} and {3 * i}.", "output": f"The sum of {i} and {3 * i} is {4 * i}."} for i in numbers
    )
    return "".join(json.dumps(row) + "\n" for row in made)


def asked(machine: Any, *overrides: str, **parameters: Any) -> str:
    """A run of the tiny chain on own rows."""
    own = machine.home.parent / "own.jsonl"
    own.write_text(rows(range(150)))
    data = {"instructions": str(own)}
    sets = ["prepare.near_duplicates=none", "compress.methods=int8", *overrides]
    return str(machine.run(NIGHTLY, preset="tiny", overrides=sets, data=data, **parameters))


def registry(machine: Any) -> ModelRegistry:
    return ModelRegistry(machine.settings, MODEL)


def message(run: dict[str, Any]) -> str:
    return str(run["state"]["message"])


def test_the_first_run_promotes_and_the_second_skips_and_says_why(machine: Any) -> None:
    first = machine.wait(asked(machine), "Completed", "Skipped")
    assert (first["state_name"], message(first)) == ("Completed", "the first model: it meets the floors and budgets")
    assert registry(machine).aliases() == Aliases(champion=1)
    second = machine.wait(asked(machine), "Completed", "Skipped")
    assert second["state_name"] == "Skipped"
    assert "nothing has changed since version 1" in message(second)
    assert {run.info.status for run in machine.tracked("retrain")} == {"FINISHED"}
    with httpx.Client(base_url=machine.state.api, timeout=30, trust_env=False) as http:
        artifacts = http.post("/artifacts/filter", json={}).raise_for_status().json()
    pages = {key: [one["data"] for one in artifacts if one["key"] == key] for key in ("gate", "retrain")}
    assert ["| floor answers" in text for text in pages["gate"]] == [True]
    assert {text.partition("\n")[0] for text in pages["retrain"]} == {
        "**gptworks-tiny: promoted**",
        "**gptworks-tiny: skipped**",
    }


def test_added_data_starts_the_deployment_before_its_hour(machine: Any) -> None:
    more = machine.home.parent / "more.jsonl"
    more.write_text(rows(range(300, 460)))

    def runs() -> list[dict[str, Any]]:
        wanted = {"deployments": {"name": {"any_": ["nightly"]}}, "flows": {"name": {"any_": ["retrain"]}}}
        found = httpx.post(f"{machine.state.api}/flow_runs/filter", json=wanted, timeout=30, trust_env=False)
        return list(found.raise_for_status().json())

    before = {run["id"] for run in runs()}
    assert "sent gptworks.data.added to http" in machine.command("data", "add", str(more))
    deadline = monotonic() + 60
    while not (new := [run for run in runs() if run["id"] not in before]) and monotonic() < deadline:
        sleep(0.5)
    assert [run["parameters"]["preset"] for run in new] == ["demo"]  # its own chain; far too long for a test
    with machine.api as api:
        api.set_state(new[0]["id"], "CANCELLING", name="Cancelling", message="by the test")
    machine.wait(new[0]["id"], "Cancelled", "Crashed", "Failed", seconds=120)
    machine.command("data", "remove", machine.command("data", "list").split("│")[1].strip()[:12])


def test_a_challenger_waits_for_a_person_without_a_process_and_is_published_by_the_answer(machine: Any) -> None:
    before = registry(machine).aliases().champion if registry(machine).exists() else None
    policy = {"primary": "text", "margins": {}, "min_items": 2, "confidence": 0.6, "require_approval": True}
    run_id = asked(machine, "pretrain.train.steps=60", gate=policy)
    machine.wait(run_id, "Suspended")
    waiting = registry(machine).aliases()
    assert (waiting.champion, waiting.challenger) == (before, (before or 0) + 1)
    assert registry(machine).version((before or 0) + 1).tags["gptworks.gate.verdict"] == "needs_approval"
    answer = {"run_input": {"approve": True, "reason": "read by two of us"}}
    resumed = httpx.post(f"{machine.state.api}/flow_runs/{run_id}/resume", json=answer, timeout=30, trust_env=False)
    assert resumed.raise_for_status().json()["status"] == "ACCEPT"
    ended = machine.wait(run_id, "Completed", "Skipped")
    assert (ended["state_name"], message(ended)) == ("Completed", "approved: read by two of us")
    assert registry(machine).aliases() == Aliases(champion=waiting.challenger, previous=before)
    told = [run.data.tags.get("prefect.flow_run_id") for run in machine.tracked("retrain")]
    assert told.count(run_id) == 1
    if before is not None:
        machine.command("rollback", "--model", MODEL, "--reason", "the test is over")
        assert registry(machine).aliases() == Aliases(champion=before)
