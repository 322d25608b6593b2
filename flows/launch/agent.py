"""torchrun, as a process of its own beside the one that waits for the training.

    python -m flows.launch.agent ORDER

It calls torch's elastic agent by its Python interface rather than its command line, to report which process died of
what. A process of its own, because the agent takes over the signal handlers of the one it runs in.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.launch.events import EventWriter
from flows.launch.worker import SECONDS_TO_STOP

_SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class Order:
    """What the agent of one machine is to do."""

    folder: str
    """Folder of the training, as ``flows.launch.worker`` takes it."""
    id: str
    """Name of this training at the meeting point."""
    nproc: int
    """Processes on this machine."""
    nnodes: int = 1
    """Machines."""
    rdzv: str | None = None
    """HOST:PORT where the machines meet; None for one machine alone."""
    max_restarts: int = 0
    """How often all processes are restarted after a crash."""

    @property
    def output(self) -> Path:
        """Folder of what the processes print."""
        return Path(self.folder) / "output"


@contextmanager
def start_agent(order: Order) -> Iterator[subprocess.Popen[bytes]]:
    """The agent, running; with the block it ends, and its processes with it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    defaults = {
        "OMP_NUM_THREADS": str(max(1, cores // order.nproc)),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SECONDS_TO_STOP),
    }
    order.output.mkdir(parents=True, exist_ok=True)
    with (order.output / f"agent-{socket.gethostname()}.log").open("ab") as output:
        agent = subprocess.Popen(
            [sys.executable, "-m", "flows.launch.agent", json.dumps(asdict(order))],
            stdin=subprocess.PIPE,  # ends with this process, however it ends, and the training's processes notice
            stdout=output,
            stderr=subprocess.STDOUT,
            env=defaults | os.environ,
            start_new_session=True,  # a terminal's Ctrl-C comes to this process alone, which passes it on once
        )
    assert agent.stdin is not None
    try:
        yield agent
    finally:
        if agent.poll() is None:
            agent.kill()
        agent.stdin.close()
        agent.wait()


def attend(agent: subprocess.Popen[bytes], *, over: Callable[[], bool]) -> None:
    """Wait until the agent has ended; ``over`` is called again and again while it runs, and once after.

    It is asked to stop, which saves the training, when ``over`` is true or an exception (Ctrl-C, a signal that Prefect
    turned into one) comes here; the exception is raised again when the agent has ended. A second one does not wait.
    """
    try:
        _wait(agent, over)
    except BaseException as stop:
        agent.send_signal(signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)
        _wait(agent, lambda: over() and False)
        raise


def _wait(agent: subprocess.Popen[bytes], over: Callable[[], bool]) -> None:
    asked = False
    while agent.poll() is None:
        if over() and not asked:
            agent.terminate()
            asked = True  # a second signal would make it leave its processes to themselves
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    over()


def main() -> None:
    """Start the processes, watch them, and report what killed one."""
    atexit.register(gc.freeze)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    order = Order(**json.loads(sys.argv[1]))
    if order.rdzv is not None:
        # A store that is new with each attempt: in one that is kept, the processes look for each other under the number
        # of restarts, which a machine that has joined later does not share.
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    writer = EventWriter(Path(order.folder) / f"agent-{socket.gethostname()}.jsonl")
    config = LaunchConfig(
        min_nodes=order.nnodes,
        max_nodes=order.nnodes,
        nproc_per_node=order.nproc,
        run_id=order.id,
        rdzv_backend="c10d",
        rdzv_endpoint=order.rdzv or "localhost:0",
        rdzv_configs={"is_host": order.rdzv is None},  # a meeting point is open already (flows/launch/machines.py)
        local_addr=None if order.rdzv else "localhost",
        max_restarts=order.max_restarts,
        logs_specs=DefaultLogsSpecs(log_dir=str(order.output), redirects=Std.ALL),
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "flows.launch.worker", order.folder)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        writer.write("died", rank=rank, pid=failure.pid, exitcode=failure.exitcode)
        sys.exit(1)
    except RendezvousError as error:
        writer.write("apart", text=f"{type(error).__name__}: {error}")
        sys.exit(1)
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)


if __name__ == "__main__":
    main()
