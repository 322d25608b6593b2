"""What logging costs a training: five numbers a step, as the trainer logs them, by MLflow's client and by the journal.

    python -m benchmarks.tracking
    python -m benchmarks.tracking --rest 100 --steps 300    # steps as long as those of a small model

A step is nothing but the logging and two milliseconds of sleep, which stand for the training and leave the thread that
sends its time. The store is SQLite in the same process, the most expensive case for the thread beside. ``away`` has an
address where nobody answers, all the while.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measured import Measured, peak_rss_mb
from benchmarks.options import Options, shared_parser
from benchmarks.sitting import main
from benchmarks.work import Implementation, Target, Work

if TYPE_CHECKING:
    from flows.settings import Settings

NAMES = ("train/loss", "train/lr", "train/grad_norm", "perf/tokens_per_second", "perf/mfu")


def build(options: Options) -> Work:
    """The work for these options."""
    return Work(
        name="tracking",
        title=f"Logging {len(NAMES)} metrics a step, {options.steps} steps, {options.rest:g} ms apart",
        unit="ms a step (mean)",
        figure=lambda measured: 1000 * sum(measured.seconds) / len(measured.seconds),
        implementations=(
            Implementation("ours", "`stage_run` and `log_metrics`, MLflow answers", measure_ours),
            Implementation("away", "the same, MLflow does not answer", measure_away),
            Implementation("client", "`MlflowClient.log_batch` at each step", measure_client),
        ),
        prepare=_nothing,
        targets=(
            Target("figure", 0.2, at_most=True),
            Target("figure", 0.2, ours="away", at_most=True),
        ),
        notes=("store: SQLite below a temporary folder, on the disk of the machine",),
    )


def _nothing(options: Options, folder: Path) -> None:
    """There is nothing to prepare."""
    del options, folder


def measure_ours(options: Options, folder: Path) -> Measured:  # noqa: ARG001 - as of every implementation
    """Through the journal, to a store that answers."""
    with tempfile.TemporaryDirectory() as home:
        return _logged(_settings(home), options)


def measure_away(options: Options, folder: Path) -> Measured:  # noqa: ARG001 - as of every implementation
    """Through the journal, while nobody answers."""
    with tempfile.TemporaryDirectory() as home:
        return _logged(_settings(home, MLFLOW_TRACKING_URI="http://127.0.0.1:9"), options)


def measure_client(options: Options, folder: Path) -> Measured:  # noqa: ARG001 - as of every implementation
    """By MLflow's own client, a call for each step."""
    from mlflow.entities import Metric

    from flows.tracking.runs import connect

    with tempfile.TemporaryDirectory() as home:
        client = connect(_settings(home))
        run_id = client.create_run(client.create_experiment("bench")).info.run_id

        def log(step: int) -> None:
            now = int(time.time() * 1000)
            client.log_batch(run_id, metrics=[Metric(name, float(step), now, step) for name in NAMES])

        return _timed(log, options)


def _logged(settings: Settings, options: Options) -> Measured:
    from flows.tracking.runs import stage_run

    with stage_run(settings, stage="pretrain", name="bench", key="bench", params={}) as run:
        # whatever is done once is not a step's: importing MLflow, making the tables, the first attempt
        run.flush()
        return _timed(lambda step: run.log_metrics(dict.fromkeys(NAMES, float(step)), step=step), options)


def _timed(log: Callable[[int], None], options: Options) -> Measured:
    seconds = []
    for step in range(options.warmup + options.steps):
        started = time.perf_counter()
        log(step)
        if step >= options.warmup:
            seconds.append(time.perf_counter() - started)
        time.sleep(options.rest / 1000)
    worst = round(1000 * max(seconds), 2)
    return Measured(seconds, [1.0] * len(seconds), peak_rss_mb(), {"slowest call, ms": worst})


def _settings(home: str, **environ: str) -> Settings:
    from flows.settings import apply_environment, read_settings

    settings = read_settings({"GPTWORKS_HOME": home, **environ})
    apply_environment(settings)
    return settings


if __name__ == "__main__":
    parser = shared_parser(str(__doc__), steps=3000)
    parser.add_argument("--rest", type=float, default=2.0, metavar="MS", help="milliseconds between steps (default 2)")
    main("benchmarks.tracking", build, parser)
