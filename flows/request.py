"""What a user asks of a flow: a preset, changes to it, and perhaps own data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flows.engine import Chain
from flows.orchestration import check_worker_home
from flows.progress import progress_bar
from flows.recipes import Pipeline, resolve, with_own_data
from flows.settings import read_settings

Preset = Literal["demo", "book", "tiny"]


class OwnData(BaseModel):
    """Paths of the user's own files; what is not given is left out of the chain."""

    model_config = ConfigDict(extra="forbid")

    corpus: list[Path] = Field(default=[], description="Files or folders of txt, md, jsonl, csv, tsv, parquet")
    labelled: Path | None = Field(default=None, description="Rows with the keys text and label")
    instructions: Path | None = Field(default=None, description="Rows with instruction, output and perhaps input")


def configuration(preset: str, overrides: list[str], data: OwnData | None) -> Pipeline:
    """The resolved configuration.

    Raises:
        ConfigError: the preset or an override is unknown or does not fit.
    """
    pipeline = resolve(preset, overrides=overrides)
    if data is None:
        return pipeline
    return with_own_data(pipeline, corpus=data.corpus, labelled=data.labelled, instructions=data.instructions)


def chain(pipeline: Pipeline, *, data_dir: Path | None, parent_run_id: str | None = None) -> Chain:
    """The stages of a configuration, in the folders and services that the environment names."""
    check_worker_home()
    return Chain(pipeline, read_settings(), data_dir, progress_bar, parent_run_id)
