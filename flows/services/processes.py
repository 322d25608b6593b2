"""Start servers that outlive the command, wait until they answer, and end them with all that they started."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from gptcore.errors import GptcoreError

_TAIL_LINES = 15
_SECONDS_BETWEEN_LOOKS = 0.25
_launched: list[subprocess.Popen[bytes]] = []
"""Kept, because one that is forgotten while it runs is reported as a leak; these are meant to outlive this process."""


class ServiceError(GptcoreError):
    """A server or worker did not start, died, or does not answer."""

    exit_code = 6


@dataclass(frozen=True)
class Process:
    """One process, named so that a later one with the same pid is not taken for it."""

    pid: int
    started: float
    """When it was created, seconds since 1970, as the system reports it."""

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this pid now.

        Raises:
            psutil.NoSuchProcess: there is none.
        """
        return cls(pid, psutil.Process(pid).create_time())

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that has ended and waits for its parent does not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def launch(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    cwd: Path,
    first: Callable[[], None] | None = None,
) -> Process:
    """Start a process in a session of its own, so that neither Ctrl-C nor the end of the terminal reaches it.

    ``environment`` holds all of its variables; what it prints is appended to ``log``; ``first`` is called in it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=first,
        )
    _launched.append(child)
    return Process.of(child.pid)


def wait_until(ready: Callable[[], bool], *, name: str, process: Process, log: Path, seconds: float) -> None:
    """Wait until a new server is ready.

    Raises:
        ServiceError: it ended, or was not ready in time; ends with the last lines of its log.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if not process.alive:
            raise ServiceError(f"{name} ended while it started; the last lines of {log}:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise ServiceError(f"{name} was not ready after {seconds:.0f} s; the last lines of {log}:\n{tail(log)}")
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def answers(url: str, *, seconds: float = 3.0) -> bool:
    """Whether a GET of the url is answered with success."""
    try:
        return httpx.get(url, timeout=seconds, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def end(process: Process, *, seconds: float) -> None:
    """Ask a process to end, and after ``seconds`` make it and all that it started end."""
    if not process.alive:
        return
    root = psutil.Process(process.pid)
    family = [*_descendants(root), root]
    _quietly(root.terminate)
    _, left = psutil.wait_procs([root], timeout=seconds)
    family += [found for found in _descendants(root) if found not in family] if left else []
    end_all(family, seconds=0 if left else 5)
    for child in _launched:
        child.poll()


def end_all(processes: Sequence[psutil.Process], *, seconds: float) -> None:
    """Wait for processes to end, and kill those that have not after ``seconds``."""
    _, left = psutil.wait_procs(list(processes), timeout=seconds)
    for process in left:
        _quietly(process.kill)
    psutil.wait_procs(left, timeout=10)


def flow_processes(api: str) -> Iterator[psutil.Process]:
    """The processes on this machine that run a flow for a worker of the Prefect server at ``api``."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get("PREFECT__FLOW_RUN_ID") and environment.get("PREFECT_API_URL") == api:
            yield process


def choose_port(wanted: int | None, *, default: int, option: str) -> int:
    """A free loopback port: the wanted one, or the default one if it is free and nothing was wanted, or any.

    Raises:
        ServiceError: the wanted port is taken; names the process that holds it, where the system reports it.
    """
    if wanted is None:
        return default if _is_free(default) else any_port()
    if wanted == 0:
        return any_port()
    if not _is_free(wanted):
        raise ServiceError(
            f"port {wanted} is taken{_holder(wanted)}; choose another with {option}, or {option} 0 for any free one"
        )
    return wanted


def tail(log: Path, *, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log."""
    if not log.is_file():
        return "(no log)"
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def any_port() -> int:
    """A free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _holder(port: int) -> str:
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return ""
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.pid:
            try:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.NoSuchProcess:
                return ""
    return ""


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _quietly(act: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        act()
