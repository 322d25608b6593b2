"""What became of the stages of a run, as its page is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StageReport:
    """What one stage of the run made."""

    stage: str
    """Its name."""
    key: str
    """Key of its output in the stage store."""
    folder: Path
    """Its output."""
    result: dict[str, Any]
    """Its small values: metrics, tables, paths inside ``folder``."""
    seconds: float
    """How long it took now."""
    cached: bool
    """Whether the output was there already."""
    run_id: str | None
    """The MLflow run that made it."""
    run_url: str
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
    stages: tuple[StageReport, ...]
    """The stages that ran or were found, in their order; one that the data has nothing for is absent."""
    environment: dict[str, str]
    """Versions and machine."""

    def stage(self, name: str) -> StageReport | None:
        """The stage of this name, or None if it was left out."""
        return next((stage for stage in self.stages if stage.stage == name), None)
