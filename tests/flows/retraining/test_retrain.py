"""Retraining end to end on a tiny chain with a real store, MLflow and Prefect: promoted, skipped, gated, undone."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eval.stats.bootstrap import CONFIDENCE
from flows.chain.request import OwnData, chain, configuration
from flows.gate.decide import decide
from flows.gate.evidence import Evidence
from flows.gate.hold import EVALUATION, Gate, GateResult
from flows.gate.policy import GatePolicy
from flows.registry.lineage import lineage
from flows.registry.publish import promote, rollback
from flows.registry.versions import Aliases, ModelRegistry, Version
from flows.retraining.policy import RetrainPolicy
from flows.settings import Settings, read_settings
from flows.sources.added import DataFolder
from flows.tracking.runs import connect

pytestmark = [pytest.mark.flows, pytest.mark.slow, pytest.mark.timeout(900)]
MODEL = "gptworks-tiny"
POLICY = RetrainPolicy(min_new_characters=4_000)
NUMBERS = random.Random(1).sample(range(600), 600)


def rows(numbers: Sequence[int]) -> str:
    """Sums in words, none like another."""
    made = (
        {"instruction": f"Add {i} and {3 * i}.", "output": f"The sum of {i} and {3 * i} is {4 * i}."} for i in numbers
    )
    return "".join(json.dumps(row) + "\n" for row in made)


@pytest.fixture(scope="module")
def settings(tracked_home: Path) -> Iterator[Settings]:
    before = dict(os.environ)
    os.environ |= {"GPTWORKS_HOME": str(tracked_home), "OLLAMA_HOST": "127.0.0.1:9", "PREFECT_LOGGING_LEVEL": "WARNING"}
    (tracked_home / "own.jsonl").write_text(rows(NUMBERS[:150]))
    yield read_settings()
    os.environ.clear()
    os.environ.update(before)


def own(settings: Settings) -> OwnData:
    return OwnData(instructions=settings.home / "own.jsonl")


def run(settings: Settings, **changes: Any) -> dict[str, Any]:
    """One run of the flow; the name of its state is in what it says, too."""
    from flows.retrain import retrain

    overrides = ["prepare.near_duplicates=none"]
    state = retrain("tiny", overrides, own(settings), policy=POLICY, **changes, return_state=True)
    told: dict[str, Any] = state.result()
    assert (state.name == "Skipped") == (told["outcome"] == "skipped")
    return told


def evidence(settings: Settings, version: Version) -> list[Evidence]:
    found = [Evidence.load(path) for path in (settings.store / EVALUATION).glob("*/evidence.json")]
    return [one for one in found if one.model == version.key]


def test_first_it_promotes_then_it_skips_then_it_gates_honestly_and_can_be_undone(settings: Settings) -> None:
    registry = ModelRegistry(settings, MODEL)
    first = run(settings)
    assert (first["outcome"], first["cause"], first["version"], first["champion"]) == ("promoted", "first", 1, 1)
    second = run(settings)
    assert (second["outcome"], second["cause"]) == ("skipped", "unchanged")

    folder = DataFolder(settings.added_data)
    (settings.home / "few.jsonl").write_text(rows(NUMBERS[150:170]))
    folder.add([settings.home / "few.jsonl"])
    few = run(settings)
    assert (few["outcome"], few["cause"]) == ("skipped", "too_little")
    assert "no drift from the champion's data" in few["reason"]

    (settings.home / "more.jsonl").write_text(rows(NUMBERS[170:290]))
    folder.add([settings.home / "more.jsonl"])
    third = run(settings)
    assert (third["cause"], third["version"]) == ("new_data", 2)
    check_honest(settings, registry, third)
    again = run(settings)
    assert (again["outcome"], again["cause"]) == ("skipped", "unchanged" if third["champion"] == 2 else "decided")
    check_told(settings, [first, second, few, third, again])

    online, offline = (lineage(settings, f"{MODEL}/2", offline=flag) for flag in (False, True))
    assert online.names() == offline.names()
    assert str(settings.home / "own.jsonl") in online.names()
    assert {entry.name for entry in folder.entries()} <= online.names()

    if third["champion"] != 2:
        promote(registry, 2, reason="to have something to take back")
    rollback(registry, reason="wrong sums")
    assert registry.aliases().champion == 1
    undone = run(settings)
    assert (undone["outcome"], undone["cause"]) == ("skipped", "rolled_back")
    assert "wrong sums" in undone["reason"]


def check_honest(settings: Settings, registry: ModelRegistry, told: dict[str, Any]) -> None:
    """The verdict is what the evidence in the store gives, and the aliases are what the verdict says."""
    old, new = registry.version(1), registry.version(2)
    key = new.tags["gptworks.gate.eval_key"]
    [ours] = [one for one in evidence(settings, new) if one.key == key]
    [theirs] = [one for one in evidence(settings, old) if one.key == key]
    decision = decide(ours, theirs, policy=GatePolicy())
    assert decision.verdict == new.tags["gptworks.gate.verdict"]
    assert decision.reason == new.tags["gptworks.gate.reason"]
    promoted = decision.verdict == "promote"
    assert told["outcome"] == {"promote": "promoted", "reject": "rejected"}.get(decision.verdict, decision.verdict)
    assert registry.aliases() == (Aliases(2, None, 1) if promoted else Aliases(1, 2, None))
    run = connect(settings).get_run(new.tags["gptworks.gate.run"])
    assert run.info.status == "FINISHED"
    client = connect(settings)
    assert {"gate.json", "gate.md", "gate.html", "gate-table.json"} == {
        found.path for found in client.list_artifacts(run.info.run_id)
    }
    # one measurement for each model and key: a second gate on them measured nothing
    assert len(evidence(settings, old)) == 2
    written = json.loads(Path(client.download_artifacts(run.info.run_id, "gate.json")).read_text())
    assert (written["verdict"], written["challenger"], written["champion"]) == (decision.verdict, 2, 1)


def check_told(settings: Settings, told: list[dict[str, Any]]) -> None:
    """Each check is a run in MLflow that says what came of it."""
    client = connect(settings)
    for one in told:
        tags = client.get_run(one["run_id"]).data.tags
        assert tags["gptworks.retrain.outcome"] == one["outcome"]
        assert tags["gptworks.retrain.reason"] == one["reason"]
    model = client.get_registered_model(MODEL)
    assert told[-1]["reason"] in model.tags["gptworks.checked"]


@dataclass(frozen=True)
class Interrupted(Gate):
    """Somebody promotes another version while this gate is held for the first time."""

    held: list[GateResult]
    other: int

    def hold(self, challenger: Version, champion: Version | None) -> GateResult:
        found = super().hold(challenger, champion)
        self.held.append(found)
        if len(self.held) == 1:
            promote(self.registry, self.other, reason="meanwhile")
        return found


def test_a_champion_that_changed_meanwhile_is_compared_with_too(settings: Settings) -> None:
    from prefect import flow

    from flows.retrain import Round, hold_gate, with_added
    from flows.retraining.candidate import register
    from flows.retraining.situation import Why

    registry, data = ModelRegistry(settings, MODEL), with_added(own(settings))
    lenient = GatePolicy(primary="text", margins={}, floors={}, budgets={}, confidence=CONFIDENCE)
    config = configuration("tiny", ["prepare.near_duplicates=none", "pretrain.train.steps=40"], data)
    stages = chain(config, data_dir=None)
    stages.ensure("finetune-instruct")
    version = register(stages, registry, because=Why(True, "forced", "test"), pipeline_run_id="")
    other = 2 if registry.aliases().champion == 1 else 1
    gate = Interrupted(stages, registry, lenient, [], other)
    asked = Round(RetrainPolicy(), lenient, "tiny", None, data, None, None)
    ended = flow(name="gate-alone")(lambda: hold_gate(gate, version, asked))()
    assert [held.champion for held in gate.held] == [1 if other == 2 else 2, other]
    assert [held.decision.verdict for held in gate.held] == ["promote", "promote"]
    assert (ended.outcome, registry.aliases()) == ("promoted", Aliases(version.number, None, other))
