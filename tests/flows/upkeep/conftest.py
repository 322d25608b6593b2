"""Outputs of a store and tracked runs, as stages leave them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flows.settings import Settings, read_settings
from flows.store import Entry, StageStore
from flows.tracking.runs import connect


class Place(NamedTuple):
    """A project folder of its own, with a tracking store that all tests share."""

    settings: Settings
    store: StageStore
    client: Any


@pytest.fixture
def place(tmp_path: Path, judge_home: Path) -> Place:
    settings = read_settings(
        {"GPTWORKS_HOME": str(tmp_path / "var"), "MLFLOW_TRACKING_URI": f"sqlite:///{judge_home / 'mlflow.db'}"}
    )
    settings.home.mkdir()
    return Place(settings, StageStore(settings.store), connect(settings))


@pytest.fixture
def output(place: Place) -> Callable[..., Entry]:
    """Makes a finished output, so many days old."""

    def make(
        stage: str, key: str, *, days: float = 0.0, inputs: Mapping[str, str] | None = None, run: str = ""
    ) -> Entry:
        full = key.ljust(16, "0")
        named = {name: digest.ljust(16, "0") for name, digest in (inputs or {}).items()}
        with place.store.produce(stage, full) as work:
            (work.folder / "data.bin").write_bytes(b"x" * 1000)
            if run:
                work.remember_run(run)
            entry = work.commit({}, inputs=named)
        moment = time.time() - days * 86_400
        for path in (entry.path / "manifest.json", entry.path):
            os.utime(path, (moment, moment))
        return entry

    return make
