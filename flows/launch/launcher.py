"""Train one run, here or in processes of its own whose words are passed on.

Beside the run's folder, ``<out>.launch`` holds the job, the events and the output of its processes. It is removed when
the training has ended well, and named in the error when it has not.
"""

from __future__ import annotations

import shutil
import signal
import uuid
from collections.abc import Callable
from pathlib import Path

from flows.launch.agent import Order, attend, start_agent
from flows.launch.energy import energy_meter
from flows.launch.events import EventReader, to_error
from flows.launch.launch import Launch, LaunchError
from flows.launch.machines import announce
from flows.launch.worker import JOB
from gptcore.errors import GptcoreError, InterruptedRun
from gptcore.files import write_json
from gptcore.run import Run
from gptcore.train import Progress, RunLogger, TrainResult

_AGAIN = "the same command resumes from the newest checkpoint"


def train(
    run: Run, out: Path, log: RunLogger, *, launch: Launch, on_progress: Callable[[Progress], None]
) -> TrainResult:
    """``run.execute``, in as many processes as ``launch`` says.

    Raises:
        GptcoreError: whatever ``run.execute`` raised, here or in one of the processes.
        LaunchError: the processes did not come together, or one of them died.
        InterruptedRun: stopped by Ctrl-C, after saving.
    """
    beside = out.with_name(f"{out.name}.launch")
    EventReader(beside, log, on_progress).recover()
    shutil.rmtree(beside, ignore_errors=True)
    if launch.alone:
        return run.execute(out, log, on_progress=on_progress, meter=energy_meter())
    order = Order(
        str(beside), uuid.uuid4().hex, launch.nproc, launch.nnodes, launch.rdzv, max_restarts=launch.max_restarts
    )
    write_json(beside / JOB, {"run": run.to_dict(), "out": str(out), "parallel": launch.parallel})
    announce(order)
    reader = EventReader(beside, log, on_progress)

    def over() -> bool:
        reader.read()
        return _find_error(reader) is not None  # restarting would only meet the same error again

    with start_agent(order) as agent:
        try:
            attend(agent, over=over)
        except KeyboardInterrupt as stop:
            text = f"stopped by SIGINT between two steps of the training in {out}; {_AGAIN}"
            raise _find_error(reader) or InterruptedRun(text) from stop
    if reader.result is None:
        raise _find_error(reader) or _failure(reader, order, agent.returncode)
    shutil.rmtree(beside)
    return reader.result


def _find_error(reader: EventReader) -> GptcoreError | None:
    return next(filter(None, map(to_error, reader.errors)), None)


def _failure(reader: EventReader, order: Order, code: int) -> GptcoreError:
    """What went wrong first, as one error."""
    where = f"what the processes printed is in {order.output}; {_AGAIN}"
    apart = next((event for event in reader.errors if event["kind"] == "apart"), None)
    if apart is not None:
        return LaunchError(f"the {order.nnodes} machines did not come together: {apart['text']}; {where}")
    died = next((event for event in reader.errors if event["kind"] == "died"), {})
    if died.get("exitcode", 0) < 0:
        name = signal.Signals(-died["exitcode"]).name
        memory = " (perhaps the system ran out of memory: lower micro_batch_size)" if name == "SIGKILL" else ""
        return LaunchError(f"training process {died['rank']} was killed by {name}{memory}; {where}")
    errors = [event for event in reader.errors if event["kind"] == "error"]
    if errors:
        # when one process fails the others lose their connection to it, and say that instead
        first = next((event for event in errors if event["pid"] == died.get("pid")), errors[-1])
        return LaunchError(f"training process {first['rank']} failed: {first['type']}: {first['text']}; {where}")
    return LaunchError(f"the training's processes ended with exit code {code} and no error message; {where}")
