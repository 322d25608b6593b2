"""Batches as tasks: the same results in the same order, wherever they are made; errors come through."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName

from flows.launch.fan_out import fan_out
from flows.launch.launch import Launch
from flows.recipes.resolve import resolve, with_own_data
from flows.sources.base import Places
from flows.stages.context import Context, Inputs
from flows.stages.prepare import body as prepare
from gptcore.data import batches as batches_module
from gptcore.errors import ConfigError, DataError
from gptcore.files import file_sha256

if TYPE_CHECKING:
    from flows.tracking.logger import MlflowLogger

pytestmark = pytest.mark.flows


def squares(batch: list[int]) -> list[int]:
    if 13 in batch:
        raise DataError("13 cannot be squared; leave it out")
    time.sleep(0.02 * (max(batch) % 3))  # the later ones are often done first
    return [value * value for value in batch]


def batches(n: int, read: list[int] | None = None) -> Iterator[list[int]]:
    for i in range(n):
        if read is not None:
            read.append(i)
        yield [2 * i, 2 * i + 1]


def process(_: list[int]) -> tuple[int, str]:
    return os.getpid(), threading.current_thread().name


def test_outside_a_flow_the_work_is_done_in_turn() -> None:
    with fan_out(Launch()) as spread:
        made = list(spread(process, batches(3)))
    assert made == [(os.getpid(), threading.current_thread().name)] * 3


def test_results_come_in_order_and_batches_are_read_as_they_are_needed() -> None:
    read: list[int] = []

    @flow
    def work() -> list[list[int]]:
        with fan_out(Launch(workers=2)) as spread:
            results = spread(squares, batches(6, read))
            first = next(results)
            assert len(read) == 4  # two for each worker
            return [first, *results]

    assert work() == [[i * i for i in batch] for batch in batches(6)]


def test_a_single_batch_makes_no_task() -> None:
    @flow
    def work() -> list[tuple[int, str]]:
        with fan_out(Launch(workers=2)) as spread:
            return [*spread(process, batches(1)), *spread(process, batches(0))]

    assert work() == [(os.getpid(), threading.current_thread().name)]


def test_an_error_in_a_batch_is_the_stage_s_own() -> None:
    @flow
    def work() -> None:
        with fan_out(Launch(workers=2)) as spread:
            list(spread(squares, batches(9)))

    with pytest.raises(DataError, match="13 cannot be squared; leave it out"):
        work()


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_without_its_extra_a_runner_says_what_to_install(
    runner: Literal["dask", "ray"], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (f"prefect_{runner}", f"prefect_{runner}.task_runners"):  # Prefect may have loaded the inner one
        monkeypatch.setitem(sys.modules, module, None)

    @flow
    def work() -> None:
        with fan_out(Launch(runner=runner)):
            pass

    with pytest.raises(ConfigError, match=rf"pip install 'gptworks\[{runner}\]', or use threads"):
        work()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A text for each line, some of them twice or nearly so."""
    rng = random.Random(0)
    words = [f"w{i}" for i in range(400)]
    texts = [" ".join(rng.choices(words, k=30)) for _ in range(180)]
    texts += [texts[0], f"{texts[1]} more"]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Labelled rows, and one of them twice."""
    made = [{"text": f"the number {i} and {hex(i * 7919)}", "label": "ab"[i % 2]} for i in range(120)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*made, made[5]]))
    return path


def prepared(folder: Path, corpus: Path, rows: Path, launch: Launch) -> dict[str, str]:
    """Every file that data preparation writes, and its hash."""
    config = with_own_data(
        resolve("tiny", overrides=["prepare.near_duplicates=0.9"]), corpus=[corpus], rows={"classify": rows}
    )
    folder.mkdir()
    nobody = cast("MlflowLogger", None)  # data preparation logs nothing by itself
    context = Context(folder, Places(None, folder / "cache"), nobody, lambda _: None, 1, "", launch=launch)
    prepare.run(config, Inputs({}, {}), context)
    return {str(path.relative_to(folder)): file_sha256(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "runner",
    ["threads", pytest.param("dask", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)],
)
def test_data_is_prepared_to_the_same_bytes(
    runner: Literal["threads", "dask", "ray"],
    tmp_path: Path,
    corpus: Path,
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if runner != "threads":
        pytest.importorskip(f"prefect_{runner}", reason=f"the {runner} extra is not installed")
    monkeypatch.setattr(batches_module, "BATCH_ITEMS", 40)
    alone = prepared(tmp_path / "alone", corpus, rows, Launch())
    assert {"ledger.json", "corpus/train/manifest.json", "classify/test.jsonl"} <= alone.keys()

    @flow
    def work() -> dict[str, str]:
        return prepared(tmp_path / "spread", corpus, rows, Launch(runner=runner, workers=2))

    before = n_batches()
    assert work() == alone
    deadline = time.monotonic() + 60
    while n_batches() - before < 10 and time.monotonic() < deadline:  # the server writes them down a moment later
        time.sleep(0.2)
    assert n_batches() - before >= 10, "each batch has a run of its own on Prefect's pages"


def n_batches() -> int:
    """Runs of the task that Prefect's server knows."""

    async def asked() -> int:
        wanted = TaskRunFilter(name=TaskRunFilterName(like_="batch"))
        async with get_client() as client:
            return len(await client.read_task_runs(task_run_filter=wanted, limit=200))

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, asked()).result()
