"""What must never be removed: everything that a model with an alias was made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from flows.settings import Settings
from flows.store import StageStore
from flows.tracking.calls import find
from flows.tracking.runs import PREFIX, connect
from gptcore.errors import GptcoreError

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Output(NamedTuple):
    """A finished output of the store by its name."""

    stage: str
    key: str


class Protected(NamedTuple):
    """What models with an alias were made from."""

    outputs: set[Output]
    run_ids: set[str]
    models: list[str]
    """``name@alias`` of each, to be shown."""


class UnknownLineage(GptcoreError):
    """It is unknown what a model in use was made from, so nothing may be removed."""

    exit_code = 3


def find_protected(settings: Settings) -> Protected:
    """Every output and tracked run behind a registered model that has an alias (champion, challenger, previous, ...).

    Raises:
        UnknownLineage: a model has no run, its run names no output, or the registry does not answer.
    """
    try:
        client = connect(settings)
        found = Protected(set(), set(), [])
        for model in client.search_registered_models():
            for alias in sorted(model.aliases):
                version = client.get_model_version_by_alias(model.name, alias)
                found.models.append(f"{model.name}@{alias}")
                found.outputs.update(_outputs(version.tags))
                _follow(client, version.run_id or "", f"{model.name}@{alias}", found)
    except GptcoreError:
        raise
    except Exception as error:  # whatever a client raises while its server is away
        raise UnknownLineage(
            f"the models of {settings.mlflow_uri} cannot be read ({type(error).__name__}: {error}), so it is not known "
            "what is in use; nothing was removed"
        ) from error
    found.outputs.update(with_inputs(StageStore(settings.store), found.outputs))
    return found


def with_inputs(store: StageStore, outputs: Iterable[Output]) -> set[Output]:
    """The outputs, what they were made from, what that was made from, and so on."""
    found: set[Output] = set()
    waiting = list(outputs)
    while waiting:
        output = waiting.pop()
        if output in found:
            continue
        found.add(output)
        entry = store.find(*output)
        inputs = entry.inputs.items() if entry is not None else ()
        waiting += [Output(name, key) for name, key in inputs if store.folder(name, key).is_dir()]
    return found


def _follow(client: MlflowClient, run_id: str, model: str, found: Protected) -> None:
    """Add a run, the outputs it names, and the runs that its tags lead to."""
    if not run_id:
        raise UnknownLineage(
            f"{model} names no run, so it is not known what it was made from; nothing was removed. Take its alias away "
            "if it is not in use"
        )
    first, waiting = True, [run_id]
    while waiting:
        run = find(partial(client.get_run, waiting.pop()))
        if run is None and first:
            raise UnknownLineage(f"run {run_id} of {model} is not in MLflow; nothing was removed")
        if run is None or run.info.run_id in found.run_ids:
            continue  # what a parent made is named by the run that used it, too
        found.run_ids.add(run.info.run_id)
        named = _outputs(run.data.tags)
        if first and not named:
            raise UnknownLineage(f"run {run_id} of {model} names no output of the store; nothing was removed")
        found.outputs.update(named)
        parents = [value for tag, value in run.data.tags.items() if tag.startswith(f"{PREFIX}.run.")]
        waiting += [*parents, *filter(None, [run.data.tags.get("mlflow.parentRunId")])]
        first = False


def _outputs(tags: Mapping[str, str]) -> set[Output]:
    """What the tags of a run or a version name: its own output; those of a whole chain; those that went into it."""
    own, key = tags.get(f"{PREFIX}.stage"), tags.get(f"{PREFIX}.key")
    found = {Output(own, key)} if own and key and own != "pipeline" else set()
    for prefix in (f"{PREFIX}.key.", f"{PREFIX}.input."):
        found |= {Output(tag.removeprefix(prefix), value) for tag, value in tags.items() if tag.startswith(prefix)}
    return found
