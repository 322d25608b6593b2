"""One trial of a sweep: a stage made in a process of its own.

    python -m flows.sweep.trial JOB RESULT

Trainings seed the generators of their process and use all its threads, so two of them do not share one. JOB is a JSON
file that says what to make; RESULT is written in the end, with the stage's result or with what went wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.launch.events import to_event
from flows.launch.worker import end_with_the_pipe
from flows.settings import apply_environment, read_settings
from flows.sources.parts import list_options
from gptcore.errors import ConfigError, GptcoreError
from gptcore.files import write_json
from gptcore.train import Progress


def main() -> None:
    """Make the stage, and say what came of it."""
    job_path, result_path = (Path(argument) for argument in sys.argv[1:3])
    end_with_the_pipe()
    apply_environment(read_settings())
    try:
        result = make(json.loads(job_path.read_text(encoding="utf-8")))
    except BaseException as error:
        write_json(result_path, {"error": to_event(error)})
        sys.exit(error.exit_code if isinstance(error, GptcoreError) else 1)
    write_json(result_path, result)


def make(job: dict[str, Any]) -> dict[str, Any]:
    """The output of the stage: its key, its tracked run and its metrics.

    Raises:
        ConfigError: the data has no rows for the stage, or a setting does not fit.
        GptcoreError, EvalError: whatever the stage raises.
    """
    from flows.chain.engine import Chain
    from flows.chain.request import OwnData, configuration

    data = None if job["data"] is None else OwnData.model_validate(job["data"])
    folder = None if job["data_dir"] is None else Path(job["data_dir"])
    chain = Chain(configuration(job["preset"], job["overrides"], data), read_settings(), folder, _silent)
    outcome = chain.ensure(job["stage"])
    if outcome is None:
        raise ConfigError(f"the data has no rows for {job['stage']}; give some by {list_options()}")
    return {"key": outcome.key, "run_id": outcome.run_id, "metrics": outcome.result.metrics}


@contextmanager
def _silent(stage: str) -> Iterator[Callable[[Progress], None]]:
    """Several trials at once have no terminal to themselves."""
    del stage
    yield lambda _: None


if __name__ == "__main__":
    main()
