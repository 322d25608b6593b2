"""What became of the stages of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from flows.stages.result import StageResult

R = TypeVar("R", bound=StageResult)


@dataclass(frozen=True)
class Outcome:
    """What came of one stage."""

    stage: str
    """Its name."""
    key: str
    """Key of its output in the stage store."""
    path: Path
    """Its output."""
    result: StageResult
    """What it hands on."""
    seconds: float
    """How long it took now; 0 if nothing had to be done."""
    cached: bool
    """Whether the output was there already."""
    run_id: str | None
    """The MLflow run that made it."""
    run_url: str = ""
    """Where a browser shows that run; empty if nowhere."""


@dataclass(frozen=True)
class PipelineReport:
    """A whole pipeline run."""

    preset: str
    """Name of the preset it came from."""
    key: str
    """Key of the configuration."""
    started: datetime
    """When it began."""
    seconds: float
    """How long all of it took."""
    config: dict[str, Any]
    """The resolved configuration, ``Pipeline.to_dict()``."""
    sources: dict[str, str]
    """Name -> digest or version of everything that was read."""
    stages: tuple[Outcome, ...]
    """The stages that ran or were found, in their order; one that was left out is absent."""
    environment: dict[str, str]
    """Versions and machine."""
    left_out: dict[str, str] = field(default_factory=dict)
    """The stages that were left out, and why."""

    def stage(self, name: str) -> Outcome | None:
        """The stage of this name, or None if it was left out."""
        return next((stage for stage in self.stages if stage.stage == name), None)

    def result(self, kind: type[R]) -> R | None:
        """What the stage of this kind of result hands on, or None if it was left out."""
        return next((stage.result for stage in self.stages if isinstance(stage.result, kind)), None)
