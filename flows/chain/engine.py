"""Run one stage: key, store, lock, tracked run, body, commit.

A stage whose output exists is not run again; one that was interrupted is resumed in its work folder and in
the same tracked run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from flows.chain.flow_page import on_flow_page
from flows.launch.launch import Launch
from flows.orchestrator.flow_run import prefect_tags
from flows.settings import Settings
from flows.sources.base import Places
from flows.sources.catalogue import origin
from flows.sources.parts import describe_lack
from flows.stages.base import base_network
from flows.stages.context import Context, Inputs
from flows.stages.every import STAGES
from flows.stages.outcome import Outcome
from flows.stages.pipeline import Pipeline
from flows.stages.prepare.result import PrepareResult
from flows.stages.registry import Stage
from flows.stages.result import StageResult
from flows.store import Entry, StageStore, Work, stage_key
from flows.tracking.journal import is_local, new_run_id
from flows.tracking.logger import MlflowLogger, run_url
from flows.tracking.notes import NOTE, run_note
from flows.tracking.runs import TrackingError, stage_run
from flows.tracking.sync import find_mlflow_id
from gptcore.data.ledger import Ledger
from gptcore.errors import ConfigError, DataError
from gptcore.models.network import Network
from gptcore.train import Progress
from gptcore.train.measure import peak_rss_mb

ProgressBar = Callable[[str], AbstractContextManager[Callable[[Progress], None]]]
"""Opens a progress bar for a stage's name; yields an ``on_progress`` callback."""


@dataclass
class Chain:
    """The stages of one pipeline configuration."""

    pipeline: Pipeline
    """The resolved configuration."""
    settings: Settings
    """Folders and service addresses."""
    data_dir: Path | None
    """The user's folder with catalogued data sets."""
    progress: ProgressBar
    """Opens the progress bar of a stage."""
    parent_run_id: str | None = None
    """Tracked run of the pipeline, if this is one."""
    launch: Launch = field(default_factory=Launch)
    """The number of processes of a training."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """Stage -> its output, as far as made or found."""
    outside: dict[str, dict[str, str]] = field(default_factory=dict)
    """Stage -> digests of what it reads from outside the store; a corpus is read for them once."""

    @property
    def store(self) -> StageStore:
        """The stage store."""
        return StageStore(self.settings.store)

    @property
    def places(self) -> Places:
        """Where source files are."""
        return Places(self.data_dir, self.settings.cache, self.settings.added_data)

    def adopt(self, made: Mapping[str, str]) -> None:
        """Take over outputs that are known by stage and key; one that is gone is made again when it is needed."""
        for name, key in made.items():
            entry = self.store.find(name, key)
            if entry is not None:
                self.outcomes[name] = self._outcome(name, entry)

    @cached_property
    def network(self) -> Network | None:
        """The base model without its numbers; None where its sizes are not known before it is fetched."""
        return base_network(self.pipeline)

    def absence(self, stage: Stage) -> str | None:
        """Why a stage is left out: what the data lacks, or what the model cannot do; None if it is not."""
        if stage.parts and not set(stage.parts) & set(self.pipeline.prepare.source.parts):
            return describe_lack(stage.parts)
        if self.network is None:
            return None
        try:
            for ability in stage.abilities:
                self.network.require(ability, purpose=stage.name)
        except ConfigError as error:
            return str(error)
        return None

    @property
    def left_out(self) -> dict[str, str]:
        """The stages that are left out, and why."""
        return {name: reason for name, stage in STAGES.items() if (reason := self.absence(stage)) is not None}

    def ensure(self, name: str, *, force: bool = False) -> Outcome | None:
        """Make a stage's output, and first what it needs; None if the data has nothing for it.

        Args:
            name: a stage.
            force: make this stage anew even if its output exists.
        """
        if name in self.outcomes and not force:
            return self.outcomes[name]
        stage = STAGES[name]
        for needed in stage.needs:
            self.ensure(needed)
        if self.absence(stage) is not None:
            return None
        self.outcomes[name] = self._make(stage, self._inputs(stage), self.key(stage), force=force)
        return self.outcomes[name]

    def check(self) -> None:
        """Refuse now what a stage would refuse later: a missing file, starting weights, a judge that is required.

        Raises:
            GptcoreError, EvalError: something that a stage reads from outside the store is not there.
        """
        for name in STAGES.keys() - self.left_out.keys():
            self.key(STAGES[name])

    def key(self, stage: Stage) -> str:
        """The key of a stage's output: known before anything is made."""
        return stage_key(
            stage.name, version=stage.version, config=stage.config(self.pipeline), inputs=self._input_keys(stage)
        )

    def _input_keys(self, stage: Stage) -> dict[str, str]:
        needed = [STAGES[name] for name in stage.needs if self.absence(STAGES[name]) is None]
        own = {each.name: self._output_key(each) for each in needed}
        if stage.name not in self.outside:
            self.outside[stage.name] = stage.digests(self.pipeline, self.places, self.settings.ollama_host)
        return own | self.outside[stage.name]

    def _output_key(self, stage: Stage) -> str:
        made = self.outcomes.get(stage.name)
        return made.key if made else self.key(stage)

    def _inputs(self, stage: Stage) -> Inputs:
        found = {name: outcome for name, outcome in self.outcomes.items() if name in {*stage.needs, "prepare-data"}}
        return Inputs({n: o.path for n, o in found.items()}, {n: o.result for n, o in found.items()})

    def _make(self, stage: Stage, inputs: Inputs, key: str, *, force: bool) -> Outcome:
        started = time.monotonic()
        with self.store.produce(stage.name, key, force=force) as work:
            if work.entry is not None:
                return self._outcome(stage.name, work.entry)
            entry = self._run(stage, inputs, work)
        return self._outcome(stage.name, entry, seconds=time.monotonic() - started)

    def _run(self, stage: Stage, inputs: Inputs, work: Work) -> Entry:
        config, input_keys = stage.config(self.pipeline), self._input_keys(stage)
        tags = {
            "gptworks.preset": self.pipeline.preset,
            "gptworks.home": str(self.settings.home),
            **{f"gptworks.input.{name}": digest for name, digest in input_keys.items()},
            **self._lineage(stage),
            **prefect_tags(),
        }
        # known before anything is opened: whenever a process dies, the next one continues the same run
        work.remember_run(work.run_id or new_run_id())
        with stage_run(
            self.settings,
            stage=stage.name,
            name=f"{stage.name}-{self.pipeline.preset}-{work.key[:8]}",
            key=work.key,
            params=config,
            tags=tags,
            parent_run_id=self.parent_run_id,
            run_id=work.run_id,
            about=stage.about,
        ) as log:
            self._log_inputs(log, stage, input_keys)
            started = time.monotonic()
            with self.progress(stage.name) as shown, on_flow_page(stage.name, log) as page:

                def report(progress: Progress) -> None:
                    shown(progress)
                    page(progress)

                context = Context(
                    folder=work.folder,
                    places=self.places,
                    log=log,
                    on_progress=report,
                    seed=self.pipeline.seed,
                    ollama_host=self.settings.ollama_host,
                    launch=self.launch,
                )
                result = stage.run(self.pipeline, inputs, context)
            # of the whole stage; what a training measured of itself is in its own log
            spent = {"perf/seconds": time.monotonic() - started, "perf/peak_rss_mb": peak_rss_mb()}
            result = replace(result, metrics=result.metrics | spent)
            log.log_metrics(result.metrics)
            self._log_ledgers(log, work.folder)
            note = run_note(stage.name, metrics=result.metrics, tags=tags, folder=str(work.target))
            log.set_tags({NOTE: note})
            work.run_id = log.run_id
            return work.commit(result.to_dict(), version=stage.version, config=config, inputs=input_keys)

    def _outcome(self, name: str, entry: Entry, *, seconds: float | None = None) -> Outcome:
        """An output as it lies in the store; ``seconds`` if it was made now."""
        run_id = entry.run_id
        if run_id is not None and is_local(run_id):  # MLflow was away when it was made, and may have it by now
            with suppress(TrackingError):
                run_id = find_mlflow_id(self.settings, run_id) or run_id
        cached, url = seconds is None, run_url(self.settings.mlflow_ui, run_id)
        return Outcome(
            name, entry.key, entry.path, read_result(STAGES[name], entry), seconds or 0.0, cached, run_id, url
        )

    def _lineage(self, stage: Stage) -> dict[str, str]:
        tags = {
            f"gptworks.run.{name}": run_id
            for name in stage.needs
            if name in self.outcomes and (run_id := self.outcomes[name].run_id)
        }
        if "prepare-data" in self.outcomes:
            prepared = self.outcomes["prepare-data"]
            assert isinstance(prepared.result, PrepareResult)
            tags |= {"gptworks.data": prepared.key, "gptworks.tokenizer": prepared.result.tokenizer_digest}
        parent = next((name for name in reversed(stage.needs) if name not in ("prepare-data", "lora")), None)
        if parent in self.outcomes:
            tags["gptworks.parent_checkpoint"] = f"{parent}/{self.outcomes[parent].key}"
        elif stage.name == "pretrain" and self.pipeline.pretrain.init:
            tags["gptworks.parent_checkpoint"] = self.pipeline.pretrain.init
        return tags

    def _log_inputs(self, log: MlflowLogger, stage: Stage, input_keys: Mapping[str, str]) -> None:
        log.log_environment()
        for name, digest in input_keys.items():
            if name in self.outcomes:
                log.log_dataset(name, source=str(self.outcomes[name].path), digest=digest, context=stage.name)
            elif name != "judge":  # which is asked, not read
                log.log_dataset(name, source=origin(name.removeprefix("source/")), digest=digest, context=stage.name)

    @staticmethod
    def _log_ledgers(log: MlflowLogger, folder: Path) -> None:
        for path in sorted(folder.rglob("ledger.json")):
            name = str(path.relative_to(folder).parent / "ledger.json").replace("/", "-").lstrip(".-")
            log.log_table(list(map(dict, Ledger.load(path).to_rows())), name)


def read_result(stage: Stage, entry: Entry) -> StageResult:
    """The result in the manifest of a finished output.

    Raises:
        DataError: it is not of the form that this version reads.
    """
    try:
        return stage.result.from_dict(entry.result)
    except ConfigError as error:
        raise DataError(
            f"{entry.path}: expected a result of this version's form, got one of another version ({error}); "
            f"make it again: gptworks {stage.name} --force"
        ) from error
