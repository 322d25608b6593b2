"""What every stage body is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.launch.launch import Launch
from flows.sources.base import Places
from flows.sources.parts import find_part
from flows.tracking.logger import MlflowLogger
from gptcore.errors import ConfigError
from gptcore.train import Progress


@dataclass(frozen=True)
class Inputs:
    """The finished outputs of the stages before."""

    folders: dict[str, Path]
    """Stage -> its folder."""
    results: dict[str, dict[str, Any]]
    """Stage -> its small values."""

    def path(self, stage: str, name: str) -> Path:
        """A file or folder inside an earlier stage's output."""
        return self.folders[stage] / name

    def prepared(self, part: str) -> dict[str, Any]:
        """Facts about one part of the prepared data.

        Raises:
            ConfigError: the data source has no such rows.
        """
        facts = self.results["prepare-data"].get(part)
        if facts is None:
            raise ConfigError(f"the data has no rows for {part}; give some by {find_part(part).option}")
        return dict(facts)


@dataclass(frozen=True)
class Context:
    """Where a stage works and whom it tells."""

    folder: Path
    """Output folder; what an interrupted attempt left is still inside."""
    places: Places
    """Where source files are."""
    log: MlflowLogger
    """The tracked run."""
    on_progress: Callable[[Progress], None]
    """Progress bar."""
    seed: int
    """Seed of everything that is drawn."""
    ollama_host: str
    """Address of the judge's server."""
    launch: Launch = field(default_factory=Launch)
    """In how many processes a training runs, and who does other work."""
