"""Retrain when the policy triggers, compare the challenger with the champion, and publish what is better.

The same flow whoever starts it: a schedule, an event (``gptworks data add``) or a person. An event makes it run
earlier; the checks are the same, so an event too many, or one that was lost, changes nothing but the hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect import flow, get_run_logger
from prefect.client.schemas import State
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from prefect.states import Completed

from flows.chain.engine import Chain
from flows.chain.request import OwnData, Preset, chain, configuration
from flows.gate.decide import Decision
from flows.gate.hold import Gate, GateResult
from flows.gate.policy import GatePolicy
from flows.launch.launch import Launch
from flows.orchestrator.flow_run import prefect_tags, publish_link, publish_markdown
from flows.orchestrator.running import present
from flows.pipeline import pipeline
from flows.registry.publish import publish
from flows.registry.versions import ChampionChanged, ModelRegistry, Version
from flows.retraining.candidate import register
from flows.retraining.look import GATE_AGAIN, Look
from flows.retraining.notify import notify
from flows.retraining.policy import RetrainPolicy
from flows.retraining.situation import Situation, Why, why
from flows.settings import read_settings
from flows.sources.added import DataFolder
from flows.stages.compress.body import QualityGateError
from flows.tracking.logger import MlflowLogger
from flows.tracking.runs import PREFIX, stage_run

RETRAIN = "retrain"
"""The experiment of all checks, those that skip among them."""
_GATES = 3
"""How often a gate is held again because the champion changed meanwhile."""


class Approval(RunInput):
    """A person's decision on a challenger that passed its gate."""

    approve: bool = False
    """Publish it."""
    reason: str = ""
    """Why, for those who ask later."""


@dataclass(frozen=True)
class Ending:
    """The outcome of a run."""

    outcome: str
    """skipped, promoted, rejected, inconclusive, needs_approval or declined."""
    reason: str
    version: int | None = None
    champion: int | None = None
    """The version in use now."""
    gate: GateResult | None = None


@flow(
    name="retrain",
    description="Retrain when the policy triggers, compare with the champion, publish what is better.",
    persist_result=True,
)
def retrain(
    preset: Preset = "demo",
    overrides: list[str] | None = None,
    data: OwnData | None = None,
    data_dir: Path | None = None,
    force: bool = False,
    launch: Launch | None = None,
    policy: RetrainPolicy | None = None,
    gate: GatePolicy | None = None,
) -> State[dict[str, Any]]:
    """Check the policy; when it triggers: train, compare, publish.

    Args:
        preset: demo, book or tiny.
        overrides: changes of the form ``pretrain.train.epochs=2``.
        data: own files instead of the preset's data; what was added by ``gptworks data add`` is always in.
        data_dir: folder with the catalogued data sets, instead of downloading them.
        force: train whatever the thresholds and earlier gates say.
        launch: in how many processes the trainings run.
        policy: when to train.
        gate: what a challenger must show.

    Returns:
        ``outcome``, ``cause``, ``reason``, ``model``, ``version``, ``champion``, ``run_id``; the state is named Skipped
        where nothing was trained.
    """
    policy, gate = policy or RetrainPolicy(), gate or GatePolicy()
    data = with_added(data)
    stages = chain(configuration(preset, overrides or [], data), data_dir=data_dir, launch=launch)
    registry = ModelRegistry(stages.settings, model_name(preset))
    tags = {f"{PREFIX}.preset": preset, f"{PREFIX}.model": registry.name, **prefect_tags()}
    tags[f"{PREFIX}.home"] = str(stages.settings.home)
    params = {"preset": preset, "force": force, "policy": policy.model_dump(), "gate": gate.model_dump()}
    key = str(flow_run.id or uuid4())
    name = f"{registry.name}-{datetime.now(UTC):%Y-%m-%d-%H%M}"
    with (
        present(stages.settings.home),
        stage_run(stages.settings, stage=RETRAIN, name=name, key=key, params=params, tags=tags) as tracked,
    ):
        # Prefect does not count it as another run when a suspended one resumes.
        resumed = tracked.continued or int(flow_run.run_count or 0) > 1
        found, reason = check(stages, registry, policy, force=force, resumed=resumed)
        if not reason.run:
            return _finish(Ending("skipped", reason.text, champion=found.champion), reason, registry, tracked, policy)
        get_run_logger().warning("training because of %s: %s", reason.cause, reason.text)
        ending = _train(
            stages, registry, reason, Round(policy, gate, preset, overrides, data, data_dir, launch), tracked
        )
        return _finish(ending, reason, registry, tracked, policy)


@dataclass(frozen=True)
class Round:
    """What one training and its gate are asked for with; the fields are the flow's."""

    policy: RetrainPolicy
    gate: GatePolicy
    preset: Any
    overrides: list[str] | None
    data: OwnData | None
    data_dir: Path | None
    launch: Launch | None


def model_name(preset: str) -> str:
    """The registered model that a preset's versions belong to."""
    return f"{PREFIX}-{preset}"


def with_added(data: OwnData | None) -> OwnData | None:
    """The request, frozen on what has been added by now; data that comes later belongs to the next run."""
    snapshot = DataFolder(read_settings().added_data).freeze()
    if snapshot is None and not (data and data.added_alone):
        return data
    return (data or OwnData()).model_copy(update={"added": (data and data.added) or snapshot})


def check(
    stages: Chain, registry: ModelRegistry, policy: RetrainPolicy, *, force: bool, resumed: bool
) -> tuple[Situation, Why]:
    """What there is, and whether to train; drift is measured only where it decides.

    Raises:
        GptcoreError, EvalError: something that the chain reads is not there.
    """
    late = 0.0 if resumed else _lateness_minutes()
    if late > policy.max_lateness_minutes:
        text = (
            f"it starts {late:.0f} minutes late (at most {policy.max_lateness_minutes:g}); the next one checks the same"
        )
        return Situation(registry.name, ""), Why(False, "late", text)
    look = Look(stages, registry, policy)
    found = look.situation()
    reason = why(found, policy, force=force, resumed=resumed)
    if reason.cause == "too_little" and policy.drift:
        found = look.measure_drift(found)
        reason = why(found, policy, force=force, resumed=resumed)
    return found, reason


def _lateness_minutes() -> float:
    """Since this run was to start; 0 outside a deployment."""
    scheduled = flow_run.scheduled_start_time
    if not deployment.id or scheduled is None:
        return 0.0
    return float((datetime.now(UTC) - scheduled).total_seconds()) / 60


def _train(stages: Chain, registry: ModelRegistry, reason: Why, asked: Round, tracked: MlflowLogger) -> Ending:
    run_id, lost = "", None
    try:
        made = pipeline(asked.preset, asked.overrides, asked.data, asked.data_dir, False, asked.launch)
        run_id = made["run_id"]
    except QualityGateError as error:  # the models exist; their compressed forms are too bad to be used
        lost = error
    version = register(stages, registry, because=reason, pipeline_run_id=run_id)
    tracked.set_tags({f"{PREFIX}.run.pipeline": run_id, f"{PREFIX}.version": str(version.number)})
    if lost is not None:
        return _refuse(registry, version, str(lost))
    return hold_gate(Gate(stages, registry, asked.gate), version, asked)


def hold_gate(gate: Gate, version: Version, asked: Round) -> Ending:
    """Compare with the champion, and publish; with the new one, if another became champion meanwhile."""
    registry = gate.registry
    for attempt in range(1, _GATES + 1):
        champion = registry.champion()
        held = gate.hold(version, champion)
        registry.set_tags(version.number, {GATE_AGAIN: "true" if held.again else ""})
        publish_link("gate", held.url)
        publish_markdown("gate", held.text)
        decision = held.decision
        if decision.verdict == "needs_approval":
            answer = _approval(held, version, asked.policy)
            if answer is None or not answer.approve:
                return _leave(held, version, answer)
            decision = Decision("promote", f"approved: {answer.reason or 'no reason given'}", decision.rows, "")
        if decision.verdict != "promote":
            outcome = {"reject": "rejected"}.get(decision.verdict, decision.verdict)
            return Ending(outcome, decision.reason, version.number, held.champion, held)
        try:
            published = publish(registry, version.number, expected=held.champion, reason=decision.reason)
        except ChampionChanged as changed:
            if attempt == _GATES:
                raise
            get_run_logger().warning("%s", changed)
            continue
        return Ending("promoted", decision.reason, version.number, published.number, held)
    raise AssertionError("unreachable: the last attempt publishes or raises")


def _approval(held: GateResult, version: Version, policy: RetrainPolicy) -> Approval | None:
    """A person's answer: this process ends, and the run resumes when the answer is there; None without a deployment."""
    if not deployment.id:
        return None
    from prefect.flow_runs import suspend_flow_run

    form = Approval.with_initial_data(description=held.text)
    seconds = int(policy.approval_hours * 3600)
    answer: Approval = suspend_flow_run(wait_for_input=form, timeout=seconds, key=f"approve-{version.number}")
    return answer


def _leave(held: GateResult, version: Version, answer: Approval | None) -> Ending:
    if answer is None:
        text = f"{held.decision.reason}: gptworks promote {version.number} --reason TEXT"
        return Ending("needs_approval", text, version.number, held.champion, held)
    return Ending("declined", answer.reason or "no reason given", version.number, held.champion, held)


def _refuse(registry: ModelRegistry, version: Version, text: str) -> Ending:
    champion = registry.aliases().champion
    tags = {
        f"{PREFIX}.gate.verdict": "reject",
        f"{PREFIX}.gate.reason": text,
        f"{PREFIX}.gate.champion": "none" if champion is None else str(champion),
    }
    registry.set_tags(version.number, tags)
    return Ending("rejected", text, version.number, champion)


def _finish(
    ending: Ending, reason: Why, registry: ModelRegistry, tracked: MlflowLogger, policy: RetrainPolicy
) -> State[dict[str, Any]]:
    """Record how the run ended: log, Prefect, MLflow and registered model; notify whom the policy names."""
    facts = {
        "outcome": ending.outcome,
        "cause": reason.cause,
        "reason": ending.reason,
        "model": registry.name,
        "version": ending.version,
        "champion": ending.champion,
        "run_id": tracked.run_id,
    }
    text = _markdown(facts, reason, ending)
    tracked.set_tags({f"{PREFIX}.retrain.{name}": str(facts[name]) for name in ("outcome", "cause", "reason")})
    tracked.set_tags({"mlflow.note.content": text})
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
    if registry.exists():
        registry.mirror()
    registry.set_model_tags({f"{PREFIX}.checked": f"{when} {ending.outcome}: {ending.reason}"})
    publish_markdown("retrain", text)
    publish_link("retrain", tracked.url)
    get_run_logger().warning("%s: %s", ending.outcome, ending.reason)
    if ending.outcome != "skipped":
        notify(policy.notify, subject=f"{registry.name}: {ending.outcome}", text=text, facts=facts)
    return Completed(name="Skipped" if ending.outcome == "skipped" else None, message=ending.reason, data=facts)


def _markdown(facts: Mapping[str, Any], reason: Why, ending: Ending) -> str:
    lines = [f"**{facts['model']}: {ending.outcome}**", "", f"- check: {reason.cause}, {reason.text}"]
    if ending.version is not None:
        lines.append(f"- version {ending.version}: {ending.reason}")
    lines.append(f"- champion: {'none' if ending.champion is None else f'version {ending.champion}'}")
    return "\n".join([*lines, "", *([ending.gate.text] if ending.gate else [])])
