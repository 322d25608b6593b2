"""Publishing against a real registry: all names move or none, whoever dies in between, and one can always go back."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.registry.publish import promote, publish, rollback
from flows.registry.versions import (
    JOURNAL,
    REPLACED,
    ROLLED_BACK,
    Aliases,
    ChampionChanged,
    ModelRegistry,
    RegistryError,
    Version,
    mirror_path,
)
from flows.settings import Settings, read_settings
from flows.tracking.runs import connect, stage_run
from gptcore.errors import LockedError
from gptcore.locking import hold

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.flows
ROOT = Path(__file__).resolve().parents[3]
NAMES = count(1)


class Faulty:
    """A client that stops answering after some calls that write aliases."""

    def __init__(self, client: MlflowClient, *, works: int, comes_back: bool) -> None:
        self._client, self._left, self._comes_back = client, works, comes_back

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name not in ("set_registered_model_alias", "delete_registered_model_alias"):
            return found

        def call(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == -1 or (self._left < -1 and not self._comes_back):
                raise ConnectionError("the server is gone")
            return found(*arguments)

        return call


@pytest.fixture(scope="module")
def settings(tracked_home: Path) -> Settings:
    return read_settings({"GPTWORKS_HOME": str(tracked_home)})


@pytest.fixture(scope="module")
def client(settings: Settings) -> MlflowClient:
    return connect(settings)


@pytest.fixture(scope="module")
def run_id(settings: Settings) -> str:
    with stage_run(settings, stage="pretrain", name="p", key="k", params={}) as log:
        return log.run_id


@pytest.fixture
def registry(settings: Settings, client: MlflowClient) -> ModelRegistry:
    return ModelRegistry(settings, f"model-{next(NAMES)}", client=client)


def add(registry: ModelRegistry, run_id: str, key: str) -> Version:
    return registry.add(key=key, source="file:///nowhere", run_id=run_id, tags={"gptworks.data": f"data of {key}"})


def three(registry: ModelRegistry, run_id: str) -> None:
    """Versions 1 and 2 were champions one after the other, 3 is the challenger."""
    for number, key in enumerate(("a", "b", "c"), start=1):
        add(registry, run_id, key)
        if number < 3:
            publish(registry, number, expected=number - 1 or None, reason="better")


def test_versions_are_registered_once_per_key_and_the_newest_is_the_challenger(
    registry: ModelRegistry, run_id: str
) -> None:
    assert registry.champion() is None
    first, again, second = add(registry, run_id, "a"), add(registry, run_id, "a"), add(registry, run_id, "b")
    assert (first.number, again.number, second.number) == (1, 1, 2)
    assert registry.aliases() == Aliases(challenger=2)
    assert registry.version(1).tags["gptworks.data"] == "data of a"
    assert registry.with_key("a") == registry.version(1)
    with pytest.raises(RegistryError, match="has no version 7; expected one of 2, 1"):
        registry.version(7)


def test_publishing_moves_every_name_and_rollback_goes_all_the_way_back(registry: ModelRegistry, run_id: str) -> None:
    three(registry, run_id)
    assert registry.aliases() == Aliases(champion=2, challenger=3, previous=1)
    publish(registry, 3, expected=2, reason="better by 0.1")
    assert registry.aliases() == Aliases(champion=3, previous=2)
    assert "by gate: better by 0.1" in registry.version(3).tags["gptworks.promoted"]
    assert rollback(registry, reason="wrong prices").number == 2
    assert registry.aliases() == Aliases(champion=2, previous=1)
    assert registry.version(3).tags[ROLLED_BACK].endswith(": wrong prices")
    assert rollback(registry, reason="worse still").number == 1
    assert registry.aliases() == Aliases(champion=1)
    with pytest.raises(RegistryError, match="no champion before version 1; there is nothing to roll back to"):
        rollback(registry, reason="again")


def test_a_champion_that_changed_meanwhile_is_not_replaced(registry: ModelRegistry, run_id: str) -> None:
    three(registry, run_id)
    with pytest.raises(ChampionChanged, match="version 2 as champion, and version 3 was compared with 1"):
        publish(registry, 3, expected=1, reason="better")
    assert registry.aliases() == Aliases(champion=2, challenger=3, previous=1)


def test_a_person_may_promote_what_a_gate_refused_and_must_say_why(registry: ModelRegistry, run_id: str) -> None:
    three(registry, run_id)
    with pytest.raises(RegistryError, match="needs a reason"):
        promote(registry, 3, reason=" ")
    with pytest.raises(RegistryError, match=r"version 2 of .* is the champion already"):
        promote(registry, 2, reason="x")
    assert promote(registry, 1, reason="it was better").tags[REPLACED] == "2"
    assert registry.aliases() == Aliases(champion=1, challenger=3, previous=2)


@pytest.mark.parametrize("works", [0, 2])
def test_an_error_between_two_moves_leaves_all_names_as_they_were(
    registry: ModelRegistry, settings: Settings, client: MlflowClient, run_id: str, works: int
) -> None:
    three(registry, run_id)
    broken: Any = Faulty(client, works=works, comes_back=True)
    with pytest.raises(ConnectionError):
        publish(ModelRegistry(settings, registry.name, client=broken), 3, expected=2, reason="better")
    assert registry.aliases() == Aliases(champion=2, challenger=3, previous=1)
    assert JOURNAL not in client.get_registered_model(registry.name).tags


@pytest.mark.parametrize("works", [1])
def test_what_a_lost_server_left_half_done_is_put_right_at_the_next_use(
    registry: ModelRegistry, settings: Settings, client: MlflowClient, run_id: str, works: int
) -> None:
    three(registry, run_id)
    broken: Any = Faulty(client, works=works, comes_back=False)
    with pytest.raises(ConnectionError):
        publish(ModelRegistry(settings, registry.name, client=broken), 3, expected=2, reason="better")
    assert registry.aliases() != Aliases(champion=2, challenger=3, previous=1)
    assert registry.repair()
    assert registry.aliases() == Aliases(champion=2, challenger=3, previous=1)
    assert not registry.repair()
    publish(registry, 3, expected=2, reason="better")
    assert registry.aliases() == Aliases(champion=3, previous=2)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_process_killed_between_two_moves_is_put_right_by_the_next_publisher(
    registry: ModelRegistry, settings: Settings, run_id: str
) -> None:
    three(registry, run_id)
    program = f"""
import os, signal
from flows.registry.publish import publish
from flows.registry.versions import ModelRegistry
from flows.settings import read_settings
from flows.tracking.runs import connect
settings = read_settings()
client = connect(settings)
class Dying:
    def __getattr__(self, name):
        if name == "set_registered_model_alias":
            return self.move
        return getattr(client, name)
    def move(self, model, alias, version):
        client.set_registered_model_alias(model, alias, version)
        os.kill(os.getpid(), signal.SIGKILL)
publish(ModelRegistry(settings, {registry.name!r}, client=Dying()), 3, expected=2, reason="better")
"""
    environment = {"GPTWORKS_HOME": str(settings.home), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    died = subprocess.run([sys.executable, "-c", program], env=environment, timeout=100, capture_output=True, text=True)
    assert died.returncode == -9, died.stderr
    assert registry.aliases() == Aliases(champion=2, challenger=3, previous=2)
    publish(registry, 3, expected=2, reason="better")
    assert registry.aliases() == Aliases(champion=3, previous=2)


def test_one_publisher_at_a_time(registry: ModelRegistry, settings: Settings, run_id: str) -> None:
    add(registry, run_id, "a")
    with (
        registry.hold(),
        pytest.raises(LockedError, match="is in use by process"),
        hold(settings.registry / f"{registry.name}.lock", wait=False),
    ):
        raise AssertionError("two hold the lock")


def test_the_mirror_says_what_the_registry_says(registry: ModelRegistry, settings: Settings, run_id: str) -> None:
    import json

    three(registry, run_id)
    rollback(registry, reason="x")
    mirror = json.loads(mirror_path(settings, registry.name).read_text())
    assert mirror["aliases"] == {"champion": 1, "challenger": 3, "previous": None}
    assert {int(number): one["tags"] for number, one in mirror["versions"].items()} == {
        version.number: version.tags for version in registry.versions()
    }


def test_a_model_that_does_not_exist_is_named(registry: ModelRegistry) -> None:
    with pytest.raises(RegistryError, match="the registry has no model 'model-"):
        registry.aliases()
    assert not registry.repair()
