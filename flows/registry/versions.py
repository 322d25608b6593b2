"""The versions of one registered model, and its three names.

``champion``    the version in use; a gate or a person put it there
``challenger``  the newest version that came out of a chain
``previous``    the champion before: where ``gptworks rollback`` leads

MLflow's aliases are free names without compare-and-set, and one move needs several of them. So a move is made under an
operating-system lock, and a tag of the registered model (the journal) says first what all aliases were. Whoever finds
a journal without holding the lock for it finds the leavings of a killed process, and puts back what it says: a move
either ended or did not happen.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.settings import Settings
from flows.tracking.calls import find
from flows.tracking.runs import PREFIX, connect
from gptcore.errors import GptcoreError
from gptcore.files import write_json
from gptcore.locking import hold

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
JOURNAL = f"{PREFIX}.publishing"
"""Tag of a registered model whose aliases are being moved."""
KEY = f"{PREFIX}.key"
"""Tag of a version: the key of its chain."""
ROLLED_BACK = f"{PREFIX}.rolled_back"
"""Tag of a version that was taken back, and why."""
REPLACED = f"{PREFIX}.replaced"
"""Tag of a version that became champion: the number of the one it took the place of."""
_MAX_TAG = 5000

log = logging.getLogger(__name__)


class RegistryError(GptcoreError):
    """The registry has no such model or version, or what is asked of it cannot be done."""

    exit_code = 11


class ChampionChanged(RegistryError):
    """Another version became champion between a decision and its publication; decide again."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    model: str
    """Name of the registered model."""
    number: int
    run_id: str
    """MLflow run of the stage that made it."""
    source: str
    """Where MLflow keeps its files."""
    created: datetime
    tags: dict[str, str]
    """What made it, and what was decided on it."""

    @property
    def key(self) -> str:
        """The key of its chain."""
        return self.tags.get(KEY, "")

    def stage_keys(self) -> dict[str, str]:
        """Stage -> key of the output that belongs to this version."""
        return self._select_tags(f"{PREFIX}.key.")

    def stage_runs(self) -> dict[str, str]:
        """Stage -> MLflow run that made the output."""
        return self._select_tags(f"{PREFIX}.run.")

    def _select_tags(self, prefix: str) -> dict[str, str]:
        return {name.removeprefix(prefix): value for name, value in self.tags.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Aliases:
    """Which version carries which name; None where none does."""

    champion: int | None = None
    challenger: int | None = None
    previous: int | None = None


class ModelRegistry:
    """One registered model; made on its first version."""

    def __init__(self, settings: Settings, name: str, *, client: MlflowClient | None = None) -> None:
        """Use the model ``name`` in the tracking store of ``settings``; ``client`` by default is a new one."""
        self.name = name
        self._settings = settings
        self._client = connect(settings) if client is None else client

    def exists(self) -> bool:
        """Whether there is such a model."""
        return self._model() is not None

    def aliases(self) -> Aliases:
        """The present aliases.

        Raises:
            RegistryError: the model does not exist.
        """
        model = self._model()
        if model is None:
            raise RegistryError(f"the registry has no model {self.name!r}; `gptworks retrain` makes its first version")
        return Aliases(**{name: int(number) for name, number in model.aliases.items() if name in asdict(Aliases())})

    def version(self, number: int) -> Version:
        """One version by its number.

        Raises:
            RegistryError: the version does not exist.
        """
        found = find(partial(self._client.get_model_version, self.name, str(number)))
        if found is None:
            numbers = ", ".join(str(each.number) for each in self.versions()) or "none"
            raise RegistryError(f"{self.name} has no version {number}; expected one of {numbers}")
        return _version(found)

    def champion(self) -> Version | None:
        """The version in use; None before the first promotion."""
        number = self.aliases().champion if self.exists() else None
        return None if number is None else self.version(number)

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        found: list[Version] = []
        token = None
        while True:
            page = self._client.search_model_versions(f"name = '{self.name}'", max_results=200, page_token=token)
            found += map(_version, page)
            token = page.token
            if not token:
                return sorted(found, key=lambda version: -version.number)

    def with_key(self, key: str) -> Version | None:
        """The newest version that a chain of this key made."""
        return next((version for version in self.versions() if version.key == key), None)

    def add(self, *, key: str, source: str, run_id: str, tags: Mapping[str, str], description: str = "") -> Version:
        """Register what a chain made and call it the challenger; a key that is registered already keeps its version.

        ``key`` is that of the chain, ``source`` where MLflow keeps the files, ``run_id`` the run of the stage that made
        them; ``tags`` say from what.
        """
        with self.hold():
            if not self.exists():
                self._client.create_registered_model(self.name, description="Promoted by gates: champion, previous.")
            known = self.with_key(key)
            if known is None:
                all_tags = {name: value[:_MAX_TAG] for name, value in {**tags, KEY: key}.items()}
                made = self._client.create_model_version(
                    self.name, source, run_id=run_id, tags=all_tags, description=description
                )
                known = _version(made)
            if known.number != self.aliases().champion:
                self._client.set_registered_model_alias(self.name, CHALLENGER, str(known.number))
            self.mirror()
            return self.version(known.number)

    def set_tags(self, number: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version; an empty text removes the tag."""
        for name, value in tags.items():
            if value:
                self._client.set_model_version_tag(self.name, str(number), name, value[:_MAX_TAG])
            else:
                with suppress(Exception):  # it may never have been there
                    self._client.delete_model_version_tag(self.name, str(number), name)

    def set_model_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the model as a whole; nothing happens before its first version."""
        if self.exists():
            for name, value in tags.items():
                self._client.set_registered_model_tag(self.name, name, value[:_MAX_TAG])

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the model for a change, after putting right what a killed process left of one."""
        with self._lock():
            self._repair()
            yield

    def move(self, wanted: Aliases) -> None:
        """Give the three names as ``wanted``, all or none; call it inside ``hold``.

        Raises:
            Exception: what MLflow raised; the names are as before, or will be at the next use of the registry.
        """
        before = self.aliases()
        journal = {
            "before": asdict(before),
            "wanted": asdict(wanted),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._client.set_registered_model_tag(self.name, JOURNAL, json.dumps(journal))
        try:
            self._point(wanted)
        except BaseException:
            with suppress(Exception):  # where even this fails, the journal stays, and the next use puts it right
                self._point(before)
                self._client.delete_registered_model_tag(self.name, JOURNAL)
            raise
        self._client.delete_registered_model_tag(self.name, JOURNAL)
        self.mirror()

    def repair(self) -> bool:
        """Put right what a killed process left of a move; True if there was anything.

        A reader calls it before it believes the aliases; a change does it by itself.
        """
        if not self._journal():
            return False
        with self._lock():
            return self._repair()

    def mirror(self) -> Path:
        """Write versions, tags and aliases beside the store, for ``gptworks lineage --offline``."""
        path = mirror_path(self._settings, self.name)
        versions = {
            str(version.number): {"run_id": version.run_id, "tags": version.tags} for version in self.versions()
        }
        write_json(path, {"model": self.name, "aliases": asdict(self.aliases()), "versions": versions})
        return path

    def _lock(self) -> AbstractContextManager[None]:
        return hold(self._settings.registry / f"{self.name}.lock", purpose=f"the registered model {self.name}")

    def _journal(self) -> dict[str, Any] | None:
        model = self._model()
        text = None if model is None else model.tags.get(JOURNAL)
        return json.loads(text) if text else None

    def _repair(self) -> bool:
        journal = self._journal()
        if journal is None:
            return False
        log.warning(
            "process %s on %s died on %s while it moved the aliases of %s; they are put back to %s",
            *(journal["pid"], journal["host"], journal["started"], self.name, journal["before"]),
        )
        self._point(Aliases(**journal["before"]))
        self._client.delete_registered_model_tag(self.name, JOURNAL)
        self.mirror()
        return True

    def _point(self, wanted: Aliases) -> None:
        """``previous`` first: at no moment is there a champion that nobody could go back from."""
        now = self.aliases()
        for name in (PREVIOUS, CHAMPION, CHALLENGER):
            number = getattr(wanted, name)
            if number == getattr(now, name):
                continue
            if number is None:
                self._client.delete_registered_model_alias(self.name, name)
            else:
                self._client.set_registered_model_alias(self.name, name, str(number))

    def _model(self) -> RegisteredModel | None:
        return find(partial(self._client.get_registered_model, self.name))


def mirror_path(settings: Settings, name: str) -> Path:
    """Where a model's versions and aliases stand for a reader without MLflow."""
    return settings.registry / f"{name}.json"


def _version(found: ModelVersion) -> Version:
    return Version(
        model=str(found.name),
        number=int(found.version),
        run_id=str(found.run_id),
        source=str(found.source),
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        tags=dict(found.tags),
    )
