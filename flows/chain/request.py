"""What a user asks of a flow: a preset, changes to it, and perhaps own data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flows.chain.engine import Chain
from flows.launch.launch import Launch
from flows.orchestrator.flow_run import check_worker_home
from flows.progress import progress_bar
from flows.recipes.grown import with_added_data
from flows.recipes.resolve import resolve, with_own_data
from flows.settings import read_settings
from flows.sources.added import DataFolder
from flows.stages.pipeline import Pipeline

Preset = Literal["demo", "book", "tiny"]


class OwnData(BaseModel):
    """Paths of the user's own files; what is not given is left out of the chain."""

    model_config = ConfigDict(extra="forbid")

    corpus: list[Path] = Field(default=[], description="Files or folders of txt, md, jsonl, csv, tsv, parquet")
    labelled: Path | None = Field(default=None, description="Rows with the keys text and label")
    instructions: Path | None = Field(default=None, description="Rows with instruction, output and perhaps input")
    added: str | None = Field(default=None, description="Digest of a state of the added data (gptworks data list)")
    added_alone: bool = Field(default=False, description="Leave out the preset's own data, beside the added one")


class Begun(BaseModel):
    """What a pipeline hands to the flow of each of its stages."""

    model_config = ConfigDict(extra="forbid")

    made: dict[str, str] = Field(description="Keys of the outputs that its earlier flows have made, by stage")
    run_id: str = Field(description="Tracked run of the whole pipeline")


def configuration(preset: str, overrides: list[str], data: OwnData | None) -> Pipeline:
    """The resolved configuration.

    Raises:
        ConfigError: the preset or an override is unknown or does not fit.
    """
    pipeline = resolve(preset, overrides=overrides)
    if data is None:
        return pipeline
    pipeline = with_own_data(pipeline, corpus=data.corpus, labelled=data.labelled, instructions=data.instructions)
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
