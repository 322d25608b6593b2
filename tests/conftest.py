"""What every test gets: one thread, fixed seeds, no network beyond loopback, none of the developer's own settings.

Fixtures, each a skip where its thing is absent: `shared_data`, `gpt2_cache`, `chromium`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import ipaddress
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SEED = 20_240_229
GPT2_CACHE_FILES = ("6c7ea1a7e38e3a7f062df639a5b80947f075ffe6", "6d1cbeee0f20b3d9449abfede4726ed8212e3aee")
LONG = ("services", "flows", "distributed", "soak")
"""Markers of what starts servers or processes."""
TOGETHER = (
    # they run flows in this process, for which Prefect starts a server in each process that does
    ("flows/test_pipeline.py", "flows/test_bad_input.py", "flows/test_fan_out.py", "flows/retraining/test_notify.py"),
    # they look at the same judged runs
    ("flows/test_judge_cli.py", "flows/test_judge_panel.py", "flows/test_judge_stage.py"),
)
"""Modules that one worker runs, one after another, to share what takes long to make."""
OWN_SETTINGS = (
    "PREFECT_API_URL",
    "PREFECT_PROFILE",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
    "GPTWORKS_HOME",
)
# Read by numpy, torch and the telemetry of each package at import, so they are set before any of them is imported.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "Agg",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
)


class NetworkBlocked(OSError):
    """A test tried to leave the machine; an OSError, so that code under test meets it as a missing network."""


def pytest_configure(config: pytest.Config) -> None:
    """Point everything that keeps state in the home directory at a folder of this test run."""
    # a shell starts its background jobs with SIGINT ignored, and children inherit that: tests of Ctrl-C would hang
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit.register(gc.freeze)  # no last search for cycles among all that was imported: seconds of each worker
    home = Path(tempfile.mkdtemp(prefix="gptworks-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    os.environ["PREFECT_HOME"] = str(home / "prefect")
    # every process that the tests start would compile the project's modules anew: a second of each
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    for name in OWN_SETTINGS:
        os.environ.pop(name, None)
    shared = os.environ.get("GPTWORKS_SHARED_DATA")
    if shared and "TIKTOKEN_CACHE_DIR" not in os.environ:
        os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(shared) / "tiktoken_cache")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile``: whole modules for each worker, and those of TOGETHER for the same one."""
    if config.getoption("dist") != "loadfile":
        return None
    scheduler = importlib.import_module("xdist.scheduler").LoadFileScheduling(config, log)
    module_of = scheduler._split_scope

    def scope(nodeid: str) -> str:
        module: str = module_of(nodeid)
        return next((group[0] for group in TOGETHER if module.removeprefix("tests/") in group), module)

    scheduler._split_scope = scope
    return scheduler


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run; begin with the modules that take longest, so that none is left for last."""
    missing: dict[str, str | None] = {}
    checks = {"gpu": _missing_gpu, "ollama": _missing_ollama, "browser": _missing_browser}
    long_ones = set[Path]()
    for item in items:
        for marker, check in checks.items():
            if item.get_closest_marker(marker) is None:
                continue
            if marker not in missing:
                missing[marker] = check()
            if (reason := missing[marker]) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
        if any(item.get_closest_marker(marker) for marker in LONG):
            long_ones.add(item.path)
    items.sort(key=lambda item: item.path not in long_ones)


def _missing_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"


def _missing_ollama() -> str | None:
    host = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434")
    url = host if "://" in host else f"http://{host}"
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=2):
            return None
    except OSError as error:
        return f"no Ollama at {url}: {error}"


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def _missing_browser() -> str | None:
    return None if _chromium() else "no Chromium on PATH"


def _is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host is None or host in {"", "localhost", socket.gethostname()}:
        return True
    try:
        address = ipaddress.ip_address(str(host).split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse_remote(sock: socket.socket, address: Any) -> None:
    if sock.family in {socket.AF_INET, socket.AF_INET6} and not _is_local(address[0]):
        raise NetworkBlocked(f"tests must not use the network, but one connects to {address[0]}:{address[1]}")


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse every connection and name look-up beyond loopback and unix sockets, for the whole session.

    The session scope covers background threads (heartbeats, telemetry) that outlive the test which started them.
    """
    connect, connect_ex, sendto = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto
    getaddrinfo = socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _refuse_remote(self, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _refuse_remote(self, address)
        return connect_ex(self, address)

    def guarded_sendto(self: socket.socket, *args: Any) -> int:
        _refuse_remote(self, args[-1])
        return sendto(self, *args)

    def guarded_getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_local(host):
            raise NetworkBlocked(f"tests must not use the network, but one looks up {host}:{port}")
        return getaddrinfo(host, port, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket.socket, "sendto", guarded_sendto)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@pytest.fixture(autouse=True)
def seeds() -> None:
    """One thread and the same random numbers for every test, whatever ran before; torch only if a test imported it."""
    random.seed(SEED)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(SEED)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
        torch.manual_seed(SEED)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that GPTWORKS_SHARED_DATA names; tests that need it are skipped where there is none."""
    value = os.environ.get("GPTWORKS_SHARED_DATA")
    if not value:
        pytest.skip("GPTWORKS_SHARED_DATA is not set; it names the folder of real data")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"GPTWORKS_SHARED_DATA names {value}, which is not a folder")
    return folder.resolve()


@pytest.fixture
def gpt2_cache(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiktoken cache that holds GPT-2's two files, named by TIKTOKEN_CACHE_DIR for the length of the test."""
    value = os.environ.get("TIKTOKEN_CACHE_DIR")
    folder = Path(value) if value else None
    if folder is None or not all((folder / name).is_file() for name in GPT2_CACHE_FILES):
        pytest.skip("TIKTOKEN_CACHE_DIR names no folder with GPT-2's vocab.bpe and encoder.json")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder.resolve()))
    return folder.resolve()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium executable."""
    found = _chromium()
    if found is None:
        pytest.skip("no Chromium on PATH")
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=chromium, args=arguments)
        yield opened
        opened.close()
