"""What a user asks of a flow: a preset, changes to it, and perhaps own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from flows.chain.engine import Chain
from flows.launch.launch import Launch
from flows.orchestrator.flow_run import check_worker_home
from flows.progress import progress_bar
from flows.recipes.grown import with_added_data
from flows.recipes.resolve import resolve, with_own_data
from flows.settings import read_settings
from flows.sources.added import DataFolder
from flows.sources.parts import find_part
from flows.stages.base import check_fit
from flows.stages.pipeline import Pipeline
from gptcore.errors import ConfigError

Preset = Literal["demo", "book", "tiny"]
_OWN_FIELDS = {"classify": "labelled", "instruct": "instructions"}
"""Parts of the data whose files have fields of their own."""


class OwnData(BaseModel):
    """Paths of the user's own files; what is not given is left out of the chain."""

    model_config = ConfigDict(extra="forbid")

    corpus: list[Path] = Field(default=[], description="Files or folders of txt, md, jsonl, csv, tsv, parquet")
    labelled: Path | None = Field(default=None, description="Rows with the keys text and label")
    instructions: Path | None = Field(default=None, description="Rows with instruction, output and perhaps input")
    rows: dict[str, Path] = Field(default={}, description="Rows of further parts of the data, by the part's name")
    added: str | None = Field(default=None, description="Digest of a state of the added data (gptworks data list)")
    added_alone: bool = Field(default=False, description="Leave out the preset's own data, beside the added one")

    @classmethod
    def of(cls, corpus: Sequence[Path], rows: Mapping[str, Path]) -> Self | None:
        """The request for these texts and files of rows, by the name of their part; None where nothing is given."""
        own: dict[str, Any] = {field: rows.get(part) for part, field in _OWN_FIELDS.items()}
        more = {part: path for part, path in rows.items() if part not in _OWN_FIELDS}
        return cls(corpus=list(corpus), rows=more, **own) if corpus or rows else None

    def by_part(self) -> dict[str, Path]:
        """Part -> the file with its rows, for those that are given.

        Raises:
            ConfigError: a part is unknown, or is given in ``rows`` although it has a field of its own.
        """
        for name in self.rows:
            find_part(name)
            if name in _OWN_FIELDS:
                raise ConfigError(f"data.rows gives {name!r}; expected its file as data.{_OWN_FIELDS[name]}")
        own = {part: getattr(self, field) for part, field in _OWN_FIELDS.items()}
        return {part: path for part, path in {**own, **self.rows}.items() if path is not None}


class Begun(BaseModel):
    """What a pipeline hands to the flow of each of its stages."""

    model_config = ConfigDict(extra="forbid")

    made: dict[str, str] = Field(description="Keys of the outputs that its earlier flows have made, by stage")
    run_id: str = Field(description="Tracked run of the whole pipeline")


def configuration(preset: str, overrides: list[str], data: OwnData | None) -> Pipeline:
    """The resolved configuration.

    Raises:
        ConfigError: the preset or an override is unknown or does not fit, or settings do not fit the model.
    """
    pipeline = resolve(preset, overrides=overrides)
    check_fit(pipeline)
    if data is None:
        return pipeline
    pipeline = with_own_data(pipeline, corpus=data.corpus, rows=data.by_part())
    folder = DataFolder(read_settings().added_data)
    return with_added_data(pipeline, folder, snapshot=data.added, alone=data.added_alone)


def chain(
    pipeline: Pipeline, *, data_dir: Path | None, launch: Launch | None = None, begun: Begun | None = None
) -> Chain:
    """The stages of a configuration, in the folders and services that the environment names.

    Args:
        pipeline: the resolved configuration.
        data_dir: folder with the catalogued data sets, instead of downloading them.
        launch: in how many processes a training runs; None takes one.
        begun: the pipeline that this is a part of.

    Raises:
        ConfigError: a worker does not say where outputs stay, or this machine cannot start so many processes.
    """
    check_worker_home()
    launch = launch or Launch()
    launch.check()
    stages = Chain(pipeline, read_settings(), data_dir, progress_bar, begun.run_id if begun else None, launch)
    stages.adopt(begun.made if begun else {})
    return stages
