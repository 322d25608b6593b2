"""A stage is a folder (its room) and one line in ``flows/stages/every.py``.

The room's ``__init__`` describes the stage in a ``Stage``; it imports nothing heavy, so that ``--help`` is quick. What
else there is to a stage stands in modules of the room, which are loaded when they are needed:

    body.py      ``run(pipeline, inputs, context)`` makes the output and returns its ``StageResult``
    result.py    what it hands on: a kind of ``StageResult`` whose ``stage`` is the stage's name
    recipe.py    its settings: a field of ``Pipeline``, or a ``StageRecipe`` where the stage came later
    outside.py   optional: ``digests(pipeline, places, ollama_host)`` of what it reads from outside the store
    plan.py      optional: ``cost(estimate)``, shown by ``--dry-run``
    section.py   optional: ``section(report)``, what its part of the page shows, and ``headline(report)``
    section.html.j2   that part of the page

A stage of another package is registered by an entry point of ``gptworks.components`` that calls ``register``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from gptcore.errors import ConfigError

if TYPE_CHECKING:  # the command line reads descriptions alone
    from flows.sources.base import Places
    from flows.stages.context import Context, Inputs
    from flows.stages.estimate import Cost, Estimate
    from flows.stages.outcome import PipelineReport
    from flows.stages.pipeline import Pipeline
    from flows.stages.result import StageResult
    from gptcore.models.network import Ability

Role = Literal["base", "instruct", "classifier", "compressed"]
"""What the model that a stage leaves is used for: by the gate, by the registry of versions."""
Headline = tuple[str, float | str]
"""The name of a figure and the figure, or a text where one number would not do."""


@dataclass(frozen=True)
class Stage:
    """One stage of the chain."""

    name: str
    """Its name: of its flow, its command, its folder in the store and its MLflow experiment."""
    room: str
    """The package that holds it."""
    title: str
    """Its name on the page."""
    heading: str
    """The heading of its part of the page."""
    sentence: str
    """What it does: in the help, in Prefect, in prefect.yaml."""
    about: str
    """What its runs are, in MLflow."""
    version: str
    """Raised whenever its code changes what it makes; part of the key."""
    needs: tuple[str, ...]
    """Stages whose output it reads."""
    recipes: tuple[str, ...]
    """Settings that decide its output, by their fields in ``Pipeline``; its own first."""
    examples: tuple[str, ...] = ()
    """Commands that its help ends with."""
    parts: tuple[str, ...] = ()
    """Parts of the data of which it needs one; without any the stage is left out."""
    abilities: tuple[Ability, ...] = ()
    """Abilities of the model, of which it needs all; without them the stage is left out."""
    trains: bool = True
    """Whether it trains, in as many processes as ``--nproc`` asks for."""
    measures: bool = False
    """Whether it only measures what others made, so that no model is another when it changes."""
    role: Role | None = None
    """What the model that it leaves is used for."""
    curves: tuple[tuple[str, str], ...] = ()
    """Folders with the history of a training, and the title of each curve."""

    @property
    def anchor(self) -> str:
        """The id of its part of the page."""
        return self.title.lower().replace(" ", "-")

    @property
    def run(self) -> Callable[[Pipeline, Inputs, Context], StageResult]:
        """Makes the output."""
        body: Callable[[Pipeline, Inputs, Context], StageResult] = self._require("body").run
        return body

    @property
    def result(self) -> type[StageResult]:
        """The kind of value that it hands on."""
        module = self._require("result")
        (kind,) = (each for each in vars(module).values() if getattr(each, "stage", None) == self.name)
        found: type[StageResult] = kind
        return found

    def load_recipe(self) -> None:
        """Import the kind of its settings, so that it can be read from JSON."""
        self._module("recipe")

    @property
    def cost(self) -> Callable[[Estimate], Cost] | None:
        """What it will cost; None where nothing is known."""
        return getattr(self._module("plan"), "cost", None)

    @property
    def section(self) -> Callable[[PipelineReport], Any] | None:
        """What its part of the page shows; None where its metrics are all there is to show."""
        return getattr(self._module("section"), "section", None)

    @property
    def headline(self) -> Callable[[PipelineReport], Headline | None] | None:
        """Its one figure in the summary; None where the first of its metrics is taken."""
        return getattr(self._module("section"), "headline", None)

    def config(self, pipeline: Pipeline) -> dict[str, Any]:
        """The configuration that decides the output, as JSON."""
        return {**{name: pipeline.recipe(name).to_dict() for name in self.recipes}, "seed": pipeline.seed}

    def digests(self, pipeline: Pipeline, places: Places, ollama_host: str) -> dict[str, str]:
        """Digests of what it reads from outside the store: source files, starting weights, a judge."""
        outside = self._module("outside")
        found: dict[str, str] = outside.digests(pipeline, places, ollama_host) if outside else {}
        return found

    def _require(self, name: str) -> ModuleType:
        module = self._module(name)
        if module is None:
            raise ConfigError(f"stage {self.name!r}: expected a module {self.room}.{name}, found none; add it")
        return module

    def _module(self, name: str) -> ModuleType | None:
        whole = f"{self.room}.{name}"
        return importlib.import_module(whole) if importlib.util.find_spec(whole) else None


class _Stages(Mapping[str, Stage]):
    """The registered stages, those of the tree first, whatever was imported first."""

    def __init__(self) -> None:
        self.found: dict[str, Stage] = {}
        self.complete = False

    def __getitem__(self, name: str) -> Stage:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.found, key=lambda name: not self.found[name].room.startswith("flows.")))

    def __len__(self) -> int:
        return len(self.found)

    def check(self) -> None:
        """Refuse a stage that needs one that is not there."""
        for stage in self.found.values():
            if missing := [name for name in stage.needs if name not in self.found]:
                raise ConfigError(f"the stage {stage.name!r} needs {', '.join(missing)}, which is not registered")


REGISTERED = _Stages()
"""Every registered stage by name, in the order of the chain."""


def register(stage: Stage) -> Stage:
    """Put a stage behind those that are registered.

    Raises:
        ConfigError: there is one of this name, or it needs one that nobody registers.
    """
    if (other := REGISTERED.found.get(stage.name)) is not None:
        raise ConfigError(f"two stages are named {stage.name!r}: {other.room} and {stage.room}")
    REGISTERED.found[stage.name] = stage
    if REGISTERED.complete:  # a component may be loaded before the stages of the tree
        try:
            REGISTERED.check()
        except ConfigError:
            del REGISTERED.found[stage.name]
            raise
    return stage


def complete() -> None:
    """Declare that the stages of the tree and of all components are registered.

    Raises:
        ConfigError: a stage needs one that nobody has registered.
    """
    REGISTERED.check()
    REGISTERED.complete = True


@contextmanager
def use_stage(stage: Stage) -> Iterator[Stage]:
    """A stage for the time of a block, as tests need it."""
    register(stage)
    try:
        yield stage
    finally:
        del REGISTERED.found[stage.name]
