"""From a version back to the source files: what it was made from, and what that was made from.

Read from MLflow (runs, their inputs and tags), or offline from the manifests in the store and the registry's mirror.
Both give the same tree, since both come from the same keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flows.registry.versions import CHAMPION, ModelRegistry, RegistryError, Version, mirror_path
from flows.settings import Settings
from flows.sources.added import DataFolder
from flows.sources.catalogue import origin
from flows.stages.every import STAGES
from flows.store import StageStore
from flows.tracking.runs import PREFIX, connect
from gptcore.errors import DataError

if TYPE_CHECKING:
    from mlflow import MlflowClient

Found = tuple[tuple[str, ...], Mapping[str, str]]
"""What is known of an output, in words, and its inputs."""
_SOURCE = "source/"
_FACTS = ("promoted", "gate.verdict", "gate.reason", "why", "parent", "code", "rolled_back")


@dataclass(frozen=True)
class Link:
    """Something that was made, or a file that was read."""

    name: str
    """``gptworks-demo version 3``, ``pretrain/<key>``, or a source."""
    facts: tuple[str, ...] = ()
    """What is known of it, in words."""
    made_from: tuple[Link, ...] = ()
    """Its inputs."""

    def names(self) -> set[str]:
        """Its own and those of everything behind it."""
        return {self.name}.union(*(link.names() for link in self.made_from))


def lineage(settings: Settings, model: str, *, offline: bool = False) -> Link:
    """The tree behind a version: of ``NAME`` (its champion), ``NAME@ALIAS`` or ``NAME/NUMBER``.

    ``offline`` reads the store and the mirror alone, without MLflow.

    Raises:
        RegistryError: the version does not exist; offline, also if nothing was ever published from here.
        DataError: an output that the version was made from is gone; offline only.
    """
    name, number, alias = _parse(model)
    version = (_find_mirrored if offline else _find_registered)(settings, name, number, alias)
    origins = _origins(settings, version)
    main = version.tags.get(f"{PREFIX}.stage", "")
    measuring = {stage.name for stage in STAGES.values() if stage.measures}
    keys = {stage: key for stage, key in version.stage_keys().items() if stage not in measuring}
    if offline:
        made = _from_store(StageStore(settings.store), keys, main, origins)
    else:
        made = _from_runs(connect(settings), version.stage_runs(), keys, main, origins)
    facts = (f"{fact}: {version.tags[f'{PREFIX}.{fact}']}" for fact in _FACTS if f"{PREFIX}.{fact}" in version.tags)
    return Link(f"{name} version {version.number}", tuple(facts), made)


def _parse(model: str) -> tuple[str, int | None, str]:
    name, at, alias = model.partition("@")
    name, slash, number = name.partition("/")
    if slash and not number.isdecimal():
        raise RegistryError(f"expected NAME, NAME@ALIAS or NAME/NUMBER, got {model!r}")
    return name, int(number) if slash else None, alias if at else CHAMPION


def _find_registered(settings: Settings, name: str, number: int | None, alias: str) -> Version:
    registry = ModelRegistry(settings, name)
    registry.repair()
    if number is None:
        number = getattr(registry.aliases(), alias, None)
    if number is None:
        raise RegistryError(f"{name} has no {alias}")
    return registry.version(number)


def _find_mirrored(settings: Settings, name: str, number: int | None, alias: str) -> Version:
    path = mirror_path(settings, name)
    try:
        mirror = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RegistryError(f"{path} is missing: no version of {name} was registered from here") from error
    number = mirror["aliases"].get(alias) if number is None else number
    if str(number) not in mirror["versions"]:
        raise RegistryError(f"{path} has no {alias if number is None else f'version {number}'} of {name}")
    found = mirror["versions"][str(number)]
    return Version(name, int(number), found["run_id"], "", datetime.fromtimestamp(0, UTC), found["tags"])


def _origins(settings: Settings, version: Version) -> dict[str, str]:
    """Name of an added file -> where it was added from, as far as that is known here."""
    snapshot = version.tags.get(f"{PREFIX}.added")
    if snapshot is None:
        return {}
    try:
        entries = DataFolder(settings.added_data).snapshot(snapshot)
    except DataError:
        return {}
    return {entry.name: f"{entry.origin}, added {entry.added}" for entry in entries}


def _source(name: str, digest: str, origins: Mapping[str, str]) -> Link:
    bare = name.removeprefix(_SOURCE)
    where = origins.get(bare, origin(bare))
    return Link(bare, (*((where,) if where != bare else ()), digest))


def _tree(
    wanted: Mapping[str, str],
    first: str,
    look: Callable[[str, str], Found],
    origins: Mapping[str, str],
) -> tuple[Link, ...]:
    """The model's own output first, then those that nothing was made from; ``look`` gives facts and inputs of one."""
    found = {stage: look(stage, key) for stage, key in wanted.items()}

    def link(stage: str) -> Link:
        facts, inputs = found[stage]
        # what is behind one of the other inputs anyway is shown there
        behind = {name for inner in inputs if inner in found for name in found[inner][1]}
        direct = sorted((name, value) for name, value in inputs.items() if name not in behind)
        parts = (link(name) if name in found else _source(name, value, origins) for name, value in direct)
        return Link(f"{stage}/{wanted[stage]}", facts, tuple(parts))

    used = {name for _, inputs in found.values() for name in inputs}
    ends = [stage for stage in wanted if stage not in used and stage != first]
    return tuple(map(link, (stage for stage in (first, *ends) if stage in wanted)))


def _from_store(store: StageStore, keys: Mapping[str, str], main: str, origins: Mapping[str, str]) -> tuple[Link, ...]:
    def look(stage: str, key: str) -> Found:
        entry = store.find(stage, key)
        if entry is None:
            raise DataError(f"{store.folder(stage, key)} is gone; read the lineage from MLflow, without --offline")
        return (f"MLflow run {entry.run_id}", f"content {entry.digest}"), entry.inputs

    return _tree(keys, main, look, origins)


def _from_runs(
    client: MlflowClient, runs: Mapping[str, str], keys: Mapping[str, str], main: str, origins: Mapping[str, str]
) -> tuple[Link, ...]:
    prefix = f"{PREFIX}.input."

    def look(stage: str, key: str) -> Found:
        del key
        run: Any = client.get_run(runs[stage])
        tags: dict[str, str] = run.data.tags
        inputs = {name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)}
        commit = tags.get("mlflow.source.git.commit", "unknown")
        return (f"MLflow run {run.info.run_id}", f"commit {commit}"), inputs

    return _tree({stage: key for stage, key in keys.items() if stage in runs}, main, look, origins)
