"""Prefect's temporary server for one command, started before anything else is imported.

Without ``PREFECT_API_URL``, Prefect starts such a server itself (``prefect.server.api.server``), but only when the
first flow is called: it imports the whole server into the command to do so, and then nothing happens until it answers.
Here the same server starts at once, beside the command's own imports, which saves a third of a short command.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.services.processes import Process, answers, any_port, end, launch, wait_until
from flows.settings import Settings
from gptcore.errors import GptcoreError

_APP = "prefect.server.api.server:create_app"
# As Prefect sets them for a server of this kind: no pages, and no services that only a lasting server needs.
_EPHEMERAL = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "0"}
_ADDRESS = "PREFECT_API_URL"
_TEMPORARY = "GPTWORKS_TEMPORARY_PREFECT_API"
_CHOICES = (
    _ADDRESS,
    "PREFECT_PROFILE",
    "PREFECT_PROFILES_PATH",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE",
    "PREFECT_SERVER_EPHEMERAL_ENABLED",
)
"""Variables that give Prefect its server, or a file that names it."""
_CHOOSING_FILES = {"prefect.toml": "", "pyproject.toml": "[tool.prefect", ".env": "PREFECT_"}
"""Files in the working directory that Prefect reads, and what one that has settings for it contains."""
_SECONDS_TO_END = 5.0
_BEGUN: list[Process] = []
"""The servers of this process."""
_PR_SET_PDEATHSIG = 1


def begin_server(settings: Settings) -> Callable[[], None]:
    """Start a server that ends with this process, and name it in ``PREFECT_API_URL``.

    Nothing is started where an address or another setting of Prefect's may lead elsewhere, nor where Prefect was
    imported before and has read its settings: it then finds its server, or starts one, itself.

    Returns:
        waits until the server answers; call it before the first flow. It raises ServiceError, with the last lines of
        the server's log, when the server ended or has not answered in time.
    """
    # Prefect makes only the last folder of this path, and only when it is imported.
    settings.prefect_home.mkdir(parents=True, exist_ok=True)
    if "prefect" in sys.modules or _is_configured(settings):
        return lambda: None
    url = f"http://127.0.0.1:{any_port()}"
    log = settings.home / "logs" / "temporary-server.log"
    log.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "uvicorn", "--factory", _APP, "--lifespan", "on", "--log-level", "error"),
        *("--host", "127.0.0.1", "--port", url.rpartition(":")[2]),
    ]
    first = _end_with_parent if sys.platform == "linux" else None
    # Ctrl-C does not reach it: that is for the flow, which reports it to the server
    process = launch(command, environment={**os.environ, **_EPHEMERAL}, log=log, cwd=Path.cwd(), first=first)
    _BEGUN.append(process)
    atexit.register(end, process, seconds=_SECONDS_TO_END)
    os.environ |= {_ADDRESS: f"{url}/api", _TEMPORARY: f"{url}/api"}
    seconds = float(os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"])

    def wait() -> None:
        name = "Prefect's temporary server"
        wait_until(lambda: answers(f"{url}/api/health"), name=name, process=process, log=log, seconds=seconds)

    return wait


@contextmanager
def leave_nothing(settings: Settings) -> Iterator[None]:
    """What is refused in the block leaves no project folder that was not there before it.

    A server that is begun in the block ends with the refusal.
    """
    existed = settings.home.exists()
    try:
        yield
    except GptcoreError:
        if not existed:
            for process in _BEGUN:
                end(process, seconds=_SECONDS_TO_END)
            shutil.rmtree(settings.home, ignore_errors=True)
        raise


def _is_configured(settings: Settings) -> bool:
    if any(name in os.environ for name in _CHOICES) or (settings.prefect_home / "profiles.toml").exists():
        return True
    found = ((Path(name), text) for name, text in _CHOOSING_FILES.items())
    return any(path.is_file() and text in path.read_text(encoding="utf-8", errors="replace") for path, text in found)


def is_temporary() -> bool:
    """Whether the server that Prefect knows here ends with a command, so that nobody can open its pages later."""
    return os.environ.get(_ADDRESS, "") == os.environ.get(_TEMPORARY)


def _end_with_parent() -> None:
    # also where the command is killed: prctl(2)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
