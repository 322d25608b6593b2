"""Several machines: where they meet, and what those do that only give their processes.

One machine leads: it runs the command, makes what is missing, holds the tracked run and commits the output. For as long
as the command runs it keeps a store of torch's open at ``--rdzv``; the agents of all machines hold their rendezvous
(``c10d``) there, and the order for each training lies in it. The others run ``gptworks join``: they wait for an order,
start their agent, and end when the command ends.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.launch.agent import Order, attend, start_agent
from flows.launch.events import to_error, to_event
from flows.launch.launch import Launch, LaunchError, address, check_gpus
from flows.launch.worker import JOB

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

SECONDS_TO_MEET = 600
"""How long a machine waits for the one that leads; torch's rendezvous waits as long for the others."""
_SECONDS_TO_PART = 10
_SECONDS_BETWEEN_LOOKS = 0.5
_ORDER, _HERE, _GONE = "gptworks/order", "gptworks/here", "gptworks/gone"

log = logging.getLogger(__name__)


@contextmanager
def leading(launch: Launch) -> Iterator[None]:
    """Keep the meeting point open for one command, and report its end to the machines that joined.

    Raises:
        LaunchError: it cannot be opened on this machine.
    """
    if launch.rdzv is None:
        yield
        return
    store = _store(launch.rdzv, lead=True)
    end: dict[str, Any] = {}
    try:
        yield
    except BaseException as error:
        end = to_event(error)
        raise
    finally:
        store.set(_ORDER, json.dumps({"end": end}))
        deadline = time.monotonic() + _SECONDS_TO_PART
        while store.add(_GONE, 0) < store.add(_HERE, 0) and time.monotonic() < deadline:
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def announce(order: Order) -> None:
    """Lay an order where the other machines find it; nothing to do for one machine alone."""
    if order.rdzv is None:
        return
    store = _store(order.rdzv, lead=False)
    store.set(_ORDER, json.dumps(asdict(order)))
    missing = order.nnodes - 1 - store.add(_HERE, 0)
    if missing > 0:
        log.warning("waiting for %d more: on each, gptworks join %s --nproc N", missing, order.rdzv)


def join(rdzv: str, *, nproc: int, patience: float = SECONDS_TO_MEET) -> None:
    """Give ``nproc`` processes of this machine to the command that leads at ``rdzv`` (HOST:PORT), until it ends.

    A command that has disappeared may be started again: this waits ``patience`` seconds for it as for the first.

    Raises:
        ConfigError: ``rdzv`` is not an address, or there are fewer GPUs than processes.
        LaunchError: nobody leads there, or the command failed.
        GptcoreError: the command failed with it.
    """
    check_gpus(nproc)
    while True:
        _await_leader(rdzv, patience)
        try:
            store = _store(rdzv, lead=False)
            store.add(_HERE, 1)
            _serve(store, rdzv, nproc)
            return
        except RuntimeError as lost:  # torch's, of any store operation
            log.warning("%s does not answer any more (%s); waiting for it to lead again", rdzv, type(lost).__name__)


def _serve(store: TCPStore, rdzv: str, nproc: int) -> None:
    done: dict[str, Any] = {}
    while True:
        said = _read(store)
        if "end" in said:
            store.add(_GONE, 1)
            _raise_if_failed(said["end"], rdzv)
            return
        if said and said != done:
            _take_part(replace(Order(**said), nproc=nproc), store, said)
            done = said
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _take_part(order: Order, store: TCPStore, said: dict[str, Any]) -> None:
    if not (Path(order.folder) / JOB).exists():
        raise LaunchError(
            f"{order.folder} is not here, but the machine that leads has it; "
            "all machines must see one GPTWORKS_HOME under the same path"
        )

    def over() -> bool:
        try:
            return _read(store) != said
        except RuntimeError:
            return True

    with start_agent(order) as agent:
        attend(agent, over=over)


def _raise_if_failed(end: dict[str, Any], rdzv: str) -> None:
    if not end:
        return
    error = to_error(end) or LaunchError(f"{end['type']}: {end['text']}")
    raise type(error)(f"at {rdzv}: {error}")


def _read(store: TCPStore) -> dict[str, Any]:
    return dict(json.loads(store.get(_ORDER))) if store.check([_ORDER]) else {}


def _store(rdzv: str, *, lead: bool) -> TCPStore:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = address(rdzv)
    try:
        return TCPStore(host, port, is_master=lead, wait_for_workers=False, timeout=timedelta(seconds=30))
    except RuntimeError as error:
        if not lead:
            raise
        raise LaunchError(
            f"{rdzv} cannot be opened ({error}); --rdzv must name this machine as the others know it, and a free port"
        ) from error


def _await_leader(rdzv: str, patience: float) -> None:
    host, port = address(rdzv)
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"nobody leads at {rdzv} ({error}); start the command there, with --nnodes and --rdzv {rdzv}"
                ) from error
            time.sleep(_SECONDS_BETWEEN_LOOKS)
