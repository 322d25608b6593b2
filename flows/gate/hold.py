"""Hold a gate: measure both models on the same items, decide, and record the decision in MLflow."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.chain.engine import Chain
from flows.gate.decide import Decision, decide
from flows.gate.evidence import Evidence, Variant
from flows.gate.items import EvaluationSet, evaluation_set
from flows.gate.measure import Instrument, ModelFiles, measure
from flows.gate.policy import GatePolicy
from flows.gate.table import html, markdown, metrics, table_rows
from flows.orchestrator.flow_run import prefect_tags
from flows.registry.versions import ModelRegistry, Version
from flows.stages.compress.result import CompressResult
from flows.stages.context import Context
from flows.stages.evaluate import body as evaluation
from flows.stages.every import STAGES
from flows.stages.prepare.result import PrepareResult
from flows.stages.registry import Role
from flows.stages.training import CHECKPOINT
from flows.store import Entry, StageStore, stage_key
from flows.tracking.journal import new_run_id
from flows.tracking.logger import MlflowLogger
from flows.tracking.runs import PREFIX, connect, stage_run
from gptcore.errors import DataError

EVALUATION, GATE = "gate-evaluation", "gate"
"""Experiments, and folder of the store, of measurements and of decisions."""
_VERSION = "1"
_EVIDENCE = "evidence.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GateResult:
    """A decision and where it is recorded."""

    decision: Decision
    run_id: str
    """The tracked run of the decision."""
    url: str
    champion: int | None
    """The version that the challenger was compared with."""
    again: bool
    """Whether the same gate may end otherwise later: a judge failed its controls."""
    text: str
    """The table as markdown."""


@dataclass(frozen=True)
class Gate:
    """One challenger before its gate."""

    chain: Chain
    """The challenger's, with all its stages made."""
    registry: ModelRegistry
    policy: GatePolicy

    def hold(self, challenger: Version, champion: Version | None) -> GateResult:
        """Measure, decide, and record it in MLflow: a run with the table, and tags of the version.

        Raises:
            DataError: the files of a model are neither in the store nor in MLflow.
            EvalError: the judge ended the run.
            TrackingError: MLflow cannot be reached.
        """
        items = self._items(challenger, champion)
        instrument = self._instrument(items)
        ours = self._evidence(challenger, instrument)
        theirs = None
        if champion is not None:
            theirs = self._evidence(champion, instrument)
            if theirs.instrument != ours.instrument:  # a judge's server that was updated since
                theirs = self._evidence(champion, instrument, anew=True)
        decision = decide(ours, theirs, policy=self.policy)
        return self._record(decision, challenger, champion, items)

    def _items(self, challenger: Version, champion: Version | None) -> EvaluationSet:
        prepared = find_prepared(challenger, self.chain)
        if prepared is None:
            raise DataError(
                f"the data that version {challenger.number} of {challenger.model} was made from is not in the store; "
                "make it again by the same command"
            )
        other = None if champion is None else find_prepared(champion, self.chain)
        if champion is not None and other is None:
            log.warning(
                "the data of version %d is not in the store: assuming that it has not seen the items", champion.number
            )
        known = other.path if other is not None and other.path != prepared.path else None
        return evaluation_set(prepared.path, champion=known, max_items=self.policy.max_items)

    def _instrument(self, items: EvaluationSet) -> Instrument:
        config = self.chain.pipeline
        state = {"state": "off", "reason": ""}
        if items.rows("instruct"):
            state = evaluation.judge_state(config.evaluate, self.chain.settings.ollama_host)
        return Instrument(items, config.evaluate, state, config.instruct.max_new_tokens, self.policy)

    def _evidence(self, version: Version, instrument: Instrument, *, anew: bool = False) -> Evidence:
        """What is known of a version under this instrument; measured once for each pair of the two.

        What a judge said that failed its controls is asked again: it may have been the server's bad hour.
        """
        store, planned = self.chain.store, instrument.describe()
        key = stage_key(EVALUATION, version=_VERSION, config=planned, inputs={"model": version.key})
        known = store.find(EVALUATION, key)
        if known is not None and Evidence.load(known.path / _EVIDENCE).judge_invalid:
            anew = True
        with store.produce(EVALUATION, key, force=anew) as work:
            if work.entry is not None:
                return Evidence.load(work.entry.path / _EVIDENCE)
            tags = {f"{PREFIX}.model": version.model, f"{PREFIX}.version": str(version.number), **prefect_tags()}
            name = f"version {version.number} of {version.model}"
            work.remember_run(work.run_id or new_run_id())
            settings, run_id = self.chain.settings, work.run_id
            with stage_run(
                settings, stage=EVALUATION, name=name, key=key, params=planned, tags=tags, run_id=run_id
            ) as tracked:
                found = self._measure(version, instrument, work.folder, tracked)
                work.run_id = tracked.run_id
                work.commit({"eval_key": found.key}, version=_VERSION, config=planned, inputs={"model": version.key})
        return found

    def _measure(self, version: Version, instrument: Instrument, folder: Path, tracked: MlflowLogger) -> Evidence:
        with self.chain.progress(f"{EVALUATION} {version.number}") as on_progress:
            context = Context(
                folder=folder,
                places=self.chain.places,
                log=tracked,
                on_progress=on_progress,
                seed=self.policy.seed,
                ollama_host=self.chain.settings.ollama_host,
            )
            instrument.items.save(folder / "items")
            found = measure(model_files(version, self.chain), instrument, context)
        found.save(folder / _EVIDENCE)
        means = {f"gate/{name}": found.mean(name) for name in found.values}
        tracked.log_metrics({name: value for name, value in means.items() if not math.isnan(value)})
        tracked.set_tags({f"{PREFIX}.eval_key": found.key})
        tracked.log_artifact(folder / _EVIDENCE)
        return found

    def _record(
        self, decision: Decision, challenger: Version, champion: Version | None, items: EvaluationSet
    ) -> GateResult:
        against = None if champion is None else champion.number
        other = "the floors" if champion is None else f"champion {against}"
        title = f"{challenger.model}: version {challenger.number} against {other}"
        facts = {
            "model": challenger.model,
            "challenger": challenger.number,
            "champion": against,
            "items": items.sizes(),
            "items_the_champion_knew": items.left_out,
            "policy": self.policy.model_dump(),
        }
        tags = {
            f"{PREFIX}.gate.verdict": decision.verdict,
            f"{PREFIX}.gate.reason": decision.reason,
            f"{PREFIX}.gate.eval_key": decision.eval_key,
            f"{PREFIX}.gate.champion": "none" if against is None else str(against),
        }
        text = markdown(decision, title=title)
        key = stage_key(
            GATE, version=_VERSION, config=facts, inputs={"challenger": challenger.key, "eval": decision.eval_key}
        )
        with stage_run(
            self.chain.settings, stage=GATE, name=title, key=key, params=facts, tags={**tags, **prefect_tags()}
        ) as tracked:
            tracked.log_metrics(metrics(decision))
            tracked.log_table(table_rows(decision), "gate-table.json")
            tracked.log_text(json.dumps({**facts, **asdict(decision)}, indent=1), "gate.json")
            tracked.log_text(text, "gate.md")
            tracked.log_text(html(decision, title=title), "gate.html")
            tracked.set_tags({"mlflow.note.content": text})
        again = any(row.outcome == "undecided" and "judge" in (row.kind, row.name) for row in decision.rows)
        self.registry.set_tags(challenger.number, {**tags, f"{PREFIX}.gate.run": tracked.run_id})
        return GateResult(decision, tracked.run_id, tracked.url, against, again, text)


def find_prepared(version: Version, chain: Chain) -> Entry | None:
    """The prepared data that a version was made from; None where the store no longer has it."""
    return chain.store.find(PrepareResult.stage, version.stage_keys().get(PrepareResult.stage, "none"))


def model_files(version: Version, chain: Chain) -> ModelFiles:
    """Where a version's parts are: in the store, or fetched from MLflow where the store no longer has them.

    Raises:
        DataError: a part is in neither.
    """
    keys, runs = version.stage_keys(), version.stage_runs()
    variants: tuple[Variant, ...] = ()
    names = {stage.role: stage.name for stage in STAGES.values()}
    if names["compressed"] in keys:
        variants = _variants(StageStore(chain.settings.store), keys[names["compressed"]], version)

    def part(role: Role) -> Path | None:
        stage = names[role]
        if stage not in keys:
            return None
        entry = chain.store.find(stage, keys[stage])
        return entry.path / CHECKPOINT if entry else _fetch(chain, runs.get(stage, ""), f"{stage}-{keys[stage]}")

    return ModelFiles(version.key, part("base"), part("instruct"), part("classifier"), variants)


def _variants(store: StageStore, key: str, version: Version) -> tuple[Variant, ...]:
    entry = store.find(CompressResult.stage, key)
    if entry is None:
        return tuple(Variant(**each) for each in json.loads(version.tags.get(f"{PREFIX}.variants", "[]")))
    return variants_of(CompressResult.from_dict(entry.result))


def variants_of(result: CompressResult) -> tuple[Variant, ...]:
    """The compressed forms that a compression left, the original not among them."""
    whole, *others = result.variants
    return tuple(
        Variant(one.name, one.bytes, one.bytes / whole.bytes, one.tokens_per_second, one.increase) for one in others
    )


def _fetch(chain: Chain, run_id: str, name: str) -> Path:
    target = chain.settings.cache / "champions" / name
    inside = target / CHECKPOINT
    if inside.is_dir():
        return inside
    target.mkdir(parents=True, exist_ok=True)
    try:
        connect(chain.settings).download_artifacts(run_id, CHECKPOINT, str(target))
    except Exception as error:
        raise DataError(
            f"{name} is neither in the store nor among the artifacts of MLflow run {run_id} ({error}); restore the "
            "store's folder, or promote another version: gptworks promote VERSION --reason TEXT"
        ) from error
    return inside
