"""Look at registry, store and added data: the ``Situation`` of a chain."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from flows.chain.engine import Chain
from flows.gate.hold import find_prepared, model_files
from flows.gate.items import TEXT_CHARS, evaluation_set
from flows.recipes.grown import Grown, without_added_data
from flows.registry.versions import ROLLED_BACK, ModelRegistry, Version
from flows.retraining.drift import Drift, Sample, drift
from flows.retraining.policy import RetrainPolicy
from flows.retraining.situation import EarlierGate, Situation
from flows.sources.added import Added, DataFolder, read_added_documents, read_added_rows
from flows.sources.parts import CORPUS, Part, find_kind, list_parts
from flows.stages.every import STAGES
from flows.store import stage_key
from flows.tracking.runs import PREFIX
from gptcore import checkpoint
from gptcore.checkpoint import Loaded
from gptcore.config import canonical_json
from gptcore.measures import Continuation, bits_per_byte, continuation_nats

SETTINGS = f"{PREFIX}.settings"
"""Tag of a version: digest of its settings, the sources not among them."""
GATE_AGAIN = f"{PREFIX}.gate.again"
"""Tag of a version whose gate may end otherwise later."""
_ADDED = "source/added/"
_MOST_TEXTS = 200

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What is looked at."""

    chain: Chain
    registry: ModelRegistry
    policy: RetrainPolicy

    def situation(self) -> Situation:
        """What there is, without measuring drift.

        Raises:
            GptcoreError, EvalError: something that the chain reads from outside the store is not there.
        """
        key = model_key(self.chain)
        found = Situation(self.registry.name, key)
        if not self.registry.exists():
            return found
        self.registry.repair()
        versions, champion = self.registry.versions(), self.registry.champion()
        if champion is not None:
            days = (datetime.now(UTC) - champion.created).total_seconds() / 86400
            found = replace(found, champion=champion.number, champion_key=champion.key, champion_days=days)
        made = next((version for version in versions if version.key == key), None)
        if made is not None:
            found = replace(found, tried=_read_earlier_gate(made))
        return self._since(versions[0], found) if versions else found

    def measure_drift(self, found: Situation) -> Situation:
        """The same with the champion's drift on data that it does not know, where there is something to measure."""
        champion = self.registry.champion()
        if champion is None or not found.new_files:
            return found
        files = model_files(champion, self.chain)
        prepared = find_prepared(champion, self.chain)
        if files.base is None or prepared is None:
            log.warning("drift is not measured: the champion's model or data is not in the store")
            return found
        loaded = checkpoint.load(files.base)
        fresh = self._new(champion)
        texts = _fresh_texts(DataFolder(self.chain.settings.added_data), fresh)
        known = _read_held_out(prepared.path, {entry.kind for entry in fresh})
        if not texts or not known:
            return found
        return replace(found, drift=_measure(loaded, texts, known, self.policy))

    def _since(self, last: Version, found: Situation) -> Situation:
        """What is new since a version."""
        new = self._new(last)
        before, now = self._sources(last), self._digests()
        added_before = {name for name in before if name.startswith(_ADDED)}
        changed = {
            name.removeprefix("source/")
            for name in {*before, *now}
            if not name.startswith(_ADDED) and before.get(name) != now.get(name)
        }
        rows = {
            part.kind: n
            for part in list_parts()
            if (n := sum(entry.n_items for entry in new if entry.kind == part.kind))
        }
        return replace(
            found,
            last=last.number,
            settings_changed=last.tags.get(SETTINGS) != settings_digest(self.chain),
            sources_changed=tuple(sorted(changed)),
            new_files=len(new),
            new_characters=sum(entry.n_chars for entry in new),
            new_rows=rows,
            removed_files=len(added_before - set(now)),
        )

    def _new(self, version: Version) -> list[Added]:
        known = set(self._sources(version))
        return [entry for entry in self._entries() if f"source/{entry.name}" not in known]

    def _entries(self) -> tuple[Added, ...]:
        source = self.chain.pipeline.prepare.source
        if not isinstance(source, Grown):
            return ()
        return DataFolder(self.chain.settings.added_data).snapshot(source.snapshot)

    def _sources(self, version: Version) -> dict[str, str]:
        """What a version was made from; from the store, or where that is gone nothing, so that all is new."""
        entry = find_prepared(version, self.chain)
        return {} if entry is None else entry.inputs

    def _digests(self) -> dict[str, str]:
        self.chain.key(STAGES["prepare-data"])  # which reads the sources, once
        return self.chain.outside["prepare-data"]


def model_key(chain: Chain) -> str:
    """The key of everything that a chain trains and compresses; how it is evaluated is no part of it."""
    return stage_key("model", version="1", config={}, inputs=stage_keys(chain))


def stage_keys(chain: Chain) -> dict[str, str]:
    """Stage -> key of the output that a chain has or would have, those that only measure not among them."""
    measuring = {name for name, stage in STAGES.items() if stage.measures}
    return {name: chain.key(STAGES[name]) for name in STAGES if name not in {*measuring, *chain.left_out}}


def settings_digest(chain: Chain) -> str:
    """Of a chain's settings, but for the added data and how it is evaluated."""
    settings = chain.pipeline.to_dict()
    base = without_added_data(chain.pipeline.prepare.source)
    settings["prepare"]["source"] = None if base is None else base.to_dict()
    for stage in STAGES.values():
        if stage.measures:
            settings.pop(stage.recipes[0], None)
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]


def _read_earlier_gate(version: Version) -> EarlierGate:
    tags = version.tags
    against = tags.get(f"{PREFIX}.gate.champion", "none")
    return EarlierGate(
        number=version.number,
        verdict=tags.get(f"{PREFIX}.gate.verdict", ""),
        reason=tags.get(f"{PREFIX}.gate.reason", ""),
        against=None if against == "none" else int(against),
        rolled_back=tags.get(ROLLED_BACK, ""),
        again=tags.get(GATE_AGAIN) == "true",
    )


def _fresh_texts(folder: DataFolder, entries: Sequence[Added]) -> list[str]:
    texts = [document.text for document in read_added_documents(folder, (e for e in entries if e.kind == CORPUS))]
    for entry in entries:
        if part := find_kind(entry.kind):
            texts += [_row_text(part, row) for row in read_added_rows(folder, [entry])]
    return _some(texts)


def _read_held_out(prepared: Path, kinds: set[str]) -> list[str]:
    """Held-out texts of the champion's data, of the same kinds."""
    items = evaluation_set(prepared, champion=None, max_items=_MOST_TEXTS)
    texts: list[str] = []
    if CORPUS in kinds:
        texts += [row["text"] for row in items.texts]
    for part in list_parts():
        if part.kind in kinds:
            texts += [_row_text(part, row) for row in items.rows(part.name)]
    return _some(texts)


def _row_text(part: Part, row: dict[str, str]) -> str:
    return "\n".join(row[key] for key in part.content if row.get(key))


def _some(texts: Sequence[str]) -> list[str]:
    """A choice that the contents alone decide, each cut to what is read of it."""
    whole = [text[:TEXT_CHARS] for text in texts if text.strip()]
    return sorted(whole, key=lambda text: hashlib.sha256(text.encode()).digest())[:_MOST_TEXTS]


def _measure(loaded: Loaded, fresh: Sequence[str], known: Sequence[str], policy: RetrainPolicy) -> Drift:
    def sample(texts: Sequence[str]) -> Sample:
        tokens = [loaded.tokenizer.encode(text) for text in texts]
        rows = [Continuation([loaded.tokenizer.end_of_text], ids) for ids in tokens]
        nats = continuation_nats(loaded.model, rows)
        return Sample([bits_per_byte(each, text) for each, text in zip(nats, texts, strict=True)], tokens)

    return drift(sample(fresh), sample(known), policy)
