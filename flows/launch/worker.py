"""One process of a training: what torchrun starts, ``--nproc`` times on each machine.

    python -m flows.launch.worker FOLDER

FOLDER holds ``job.json``: a ``Run``, its output folder and the engine. The process also writes
its events there (``flows/launch/events.py``). It knows neither Prefect nor MLflow.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from flows.launch.energy import energy_meter
from flows.launch.events import EventWriter, WarningHandler, to_event
from gptcore import data, models, objectives, transforms
from gptcore.errors import GptcoreError
from gptcore.run import Run

JOB = "job.json"
"""Name of the file that says what to train."""
SECONDS_TO_STOP = 300
"""How long a process may take to save and end when it is asked to."""
_KINDS = (data, models, objectives, transforms)  # imported so that a run's parts are known by name


def main() -> None:
    """Train, and write how it ended."""
    atexit.register(gc.freeze)  # torch's modules need no last search for cycles, which takes a second
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    end_with_the_pipe()
    writer = EventWriter(folder / f"rank-{rank}.jsonl")
    if rank == 0:
        writer.write("attempt", n=int(os.environ["TORCHELASTIC_RESTART_COUNT"]))
        logging.getLogger().addHandler(WarningHandler(writer))
    try:
        job = json.loads((folder / JOB).read_text(encoding="utf-8"))
        run = Run.from_dict(job["run"])
        out, parallel = Path(job["out"]), job["parallel"]
        result = run.execute(out, writer, on_progress=writer.progress, parallel=parallel, meter=energy_meter())
    except BaseException as error:
        writer.write("error", rank=rank, **to_event(error))
        traceback.print_exc()
        sys.exit(error.exit_code if isinstance(error, GptcoreError) else 1)
    if rank == 0:
        writer.write("result", path=str(result.path), metrics=result.metrics)


def end_with_the_pipe() -> None:
    """Save and stop when standard input ends: who started this training is gone, however it went.

    torchrun starts its processes in sessions of their own, so that nothing else would notify them.
    """

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SECONDS_TO_STOP)
        os._exit(1)

    threading.Thread(target=watch, name="pipe", daemon=True).start()


if __name__ == "__main__":
    main()
