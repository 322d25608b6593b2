"""What every stage body is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flows.launch.launch import Launch
from flows.sources.base import Places
from flows.stages.result import StageResult
from gptcore.train import Progress
from gptcore.train.logger import RunLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

R = TypeVar("R", bound=StageResult)


class StageLog(RunLogger, Protocol):
    """The logger of a stage: a ``RunLogger`` with tags, tables, texts and figures."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Words by which runs are found."""
        ...

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Rows, shown as a table."""
        ...

    def log_text(self, text: str, name: str) -> None:
        """A text as a file of this name."""
        ...

    def log_figure(self, figure: Figure, name: str) -> None:
        """A drawing as a file of this name."""
        ...


@dataclass(frozen=True)
class Inputs:
    """The finished outputs of the stages before."""

    folders: dict[str, Path]
    """Stage -> its folder."""
    results: dict[str, StageResult]
    """Stage -> what it hands on."""

    def path(self, stage: str, name: str) -> Path:
        """A file or folder inside an earlier stage's output."""
        return self.folders[stage] / name

    def find(self, kind: type[R]) -> R | None:
        """What the stage of this kind of result hands on; None if it was left out."""
        found = self.results.get(kind.stage)
        assert found is None or isinstance(found, kind)
        return found

    def get(self, kind: type[R]) -> R:
        """The same of a stage that is always there, because this one needs it.

        Raises:
            KeyError: it was left out.
        """
        found = self.find(kind)
        if found is None:
            raise KeyError(kind.stage)
        return found


@dataclass(frozen=True)
class Context:
    """Where a stage works, its logger and its progress callback."""

    folder: Path
    """Output folder; what an interrupted attempt left is still inside."""
    places: Places
    """Where source files are."""
    log: StageLog
    """The tracked run."""
    on_progress: Callable[[Progress], None]
    """Progress bar."""
    seed: int
    """Seed of everything that is drawn."""
    ollama_host: str
    """Address of the judge's server."""
    launch: Launch = field(default_factory=Launch)
    """The number of processes of a training, and the runner of other work."""
