"""A worker that hands its runs over on SIGTERM, instead of waiting for hours or losing their work.

Prefect's own worker takes no new run when it gets SIGTERM, and waits for those it has; whoever sent the signal kills it
before a training ends. This one passes the signal on: each run saves a checkpoint and ends as Crashed, and
``reconcile``, which every worker calls first, resumes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from typing import Any

import psutil

from flows.services.deploy import POOL, PoolType
from flows.services.processes import ServiceError

SECONDS_TO_HAND_OVER = 30.0
"""How long a run may take for its checkpoint; as long as Prefect gives one that is cancelled."""
_SECONDS_BETWEEN_LOOKS = 0.5

log = logging.getLogger(__name__)


def worker_name() -> str:
    """The name of this machine's worker in Prefect."""
    return f"gptworks-{socket.gethostname()}"


def work(kind: PoolType, *, limit: int | None = None, healthcheck: bool = False) -> None:
    """Take runs from the pool until SIGTERM or SIGINT, then hand over those that are left; a second one kills them.

    Args:
        kind: type of the pool; docker and kubernetes need the package prefect-docker or prefect-kubernetes.
        limit: most runs at once, of all queues together.
        healthcheck: serve a health check at PREFECT_WORKER_WEBSERVER_HOST and _PORT.

    Raises:
        ServiceError: the package for this type of pool is missing.
    """
    from prefect.plugins import load_prefect_collections
    from prefect.utilities.dispatch import lookup_type
    from prefect.workers.base import BaseWorker

    load_prefect_collections()
    try:
        worker_class: Any = lookup_type(BaseWorker, kind)
    except KeyError as error:
        raise ServiceError(f"a {kind} worker needs the package prefect-{kind}: pip install prefect-{kind}") from error
    worker = worker_class(work_pool_name=POOL, name=worker_name(), limit=limit, create_pool_if_not_found=False)
    asyncio.run(_work(worker, healthcheck=healthcheck))


async def _work(worker: Any, *, healthcheck: bool) -> None:
    working = asyncio.ensure_future(worker.start(with_healthcheck=healthcheck))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        await _hand_over()
        working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def _hand_over() -> None:
    """Signal every run to stop, and those that start meanwhile; after the time for a checkpoint kill what is left."""
    signalled: set[int] = set()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SECONDS_TO_HAND_OVER
    while own := _own_flows():
        late = loop.time() > deadline
        for process in own:
            with contextlib.suppress(psutil.NoSuchProcess):
                if late:
                    process.kill()
                elif process.pid not in signalled:
                    signalled.add(process.pid)
                    process.terminate()
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)


def _own_flows() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("PREFECT__FLOW_RUN_ID"):
                found.append(process)
    return found
