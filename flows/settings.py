"""Where things are: folders and service addresses, read once from the environment into one frozen value.

Two variables move the same code from one machine to real servers: ``MLFLOW_TRACKING_URI`` and ``PREFECT_API_URL``.
``apply_environment`` must run before prefect or mlflow is imported, because both read their settings at import; so
this module imports neither.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from gptcore.errors import ConfigError

SQLITE = "sqlite:///"

# Telemetry of every package of the project is switched off. MLflow reads DO_NOT_TRACK only as the word "true".
_QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MPLBACKEND": "Agg",
}

_SERVICES = {
    # The first start on an empty folder migrates a database: 40 to 60 s on two cores, where the default allows 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # At the default of 5 s a slow database start kills the server's triggers silently.
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
    # SQLite has one writer at a time; a worker that gets "database is locked" is lost for its first minute.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    # Leases in memory end every run of a limited deployment when the server restarts.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # Of runs that ended 90 days ago Prefect keeps nothing; by default it forgets only their events.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    # A run that has been silent for several of these is dead (flows/upkeep); the default is three minutes.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    # A tracking server that is down must cost seconds: the defaults are 7 retries of up to 120 s each.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # a line on standard output for each run that ends, among our own tables
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Weights travel as safetensors; nothing here needs to unpickle.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


@dataclass(frozen=True)
class Settings:
    """Folders (absolute) and service addresses of one installation."""

    home: Path
    """Everything the project writes: ``GPTWORKS_HOME``, otherwise ``var`` below the working directory."""
    mlflow_uri: str
    """``MLFLOW_TRACKING_URI``, otherwise an SQLite file below ``home``; SQLite paths are absolute."""
    mlflow_ui: str
    """Where a browser finds MLflow: ``GPTWORKS_MLFLOW_UI``, the server's own address, or the local default."""
    ollama_host: str
    """``OLLAMA_HOST`` with its scheme, otherwise ``http://127.0.0.1:11434``."""
    prefect_home: Path
    """``PREFECT_HOME``, otherwise ``prefect`` below ``home``."""

    @property
    def store(self) -> Path:
        """Folder of the content-addressed stage store."""
        return self.home / "store"

    @property
    def cache(self) -> Path:
        """Folder of downloaded data sets."""
        return self.home / "cache"

    @property
    def added_data(self) -> Path:
        """Folder of the data that ``gptworks data add`` has taken in."""
        return self.home / "data"

    @property
    def registry(self) -> Path:
        """Folder of the locks of registered models, and of what ``gptworks lineage --offline`` reads."""
        return self.home / "registry"

    @property
    def spool(self) -> Path:
        """Folder of the metrics that have not reached the tracking server yet."""
        return self.home / "spool"

    @property
    def artifact_root(self) -> Path:
        """Folder of MLflow's artifacts when the tracking store is SQLite; a server keeps its own."""
        return self.home / "artifacts"

    @property
    def mlflow_is_local(self) -> bool:
        """True when MLflow's store is an SQLite file that this process opens itself."""
        return self.mlflow_uri.startswith("sqlite:")

    @property
    def mlflow_ui_command(self) -> str:
        """The command that shows the runs in a browser."""
        if not self.mlflow_is_local:
            return f"open {self.mlflow_ui}"
        return f"mlflow ui --backend-store-uri {self.mlflow_uri}"


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings that the given environment describes; nothing is created.

    Raises:
        ConfigError: ``GPTWORKS_HOME`` names a file, or ``MLFLOW_TRACKING_URI`` is not an address of a tracking store.
    """
    home = Path(environ.get("GPTWORKS_HOME") or "var").expanduser().absolute()
    if home.exists() and not home.is_dir():
        raise ConfigError(f"GPTWORKS_HOME: expected a folder, or a path that does not exist yet, got the file {home}")
    uri = _tracking_uri(environ.get("MLFLOW_TRACKING_URI", ""), home)
    default_ui = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    return Settings(
        home=home,
        mlflow_uri=uri,
        mlflow_ui=(environ.get("GPTWORKS_MLFLOW_UI") or default_ui).rstrip("/"),
        ollama_host=_with_scheme(environ.get("OLLAMA_HOST") or "http://127.0.0.1:11434"),
        prefect_home=Path(environ.get("PREFECT_HOME") or home / "prefect").expanduser().absolute(),
    )


def environment(settings: Settings) -> dict[str, str]:
    """The variables that this project wants set, for this process and for those it starts."""
    return {
        **_QUIET,
        **_SERVICES,
        "GPTWORKS_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": settings.mlflow_uri,
        "PREFECT_HOME": str(settings.prefect_home),
    }


def apply_environment(settings: Settings, environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """Set what ``environment`` lists, except what the user has set already; call it before importing prefect or mlflow.

    Returns:
        the names of the variables that were set.
    """
    missing = {name: value for name, value in environment(settings).items() if name not in environ}
    environ.update(missing)
    return sorted(missing)


def _tracking_uri(given: str, home: Path) -> str:
    if not given:
        return f"{SQLITE}{home / 'mlflow.db'}"
    scheme = given.partition("://")[0].partition("+")[0]
    if scheme not in ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks"):
        raise ConfigError(
            f"MLFLOW_TRACKING_URI is {given!r}; it must start with sqlite:///, http://, https:// or a database's "
            "scheme (MLflow no longer keeps runs in a plain folder); unset it to use an SQLite file below GPTWORKS_HOME"
        )
    if given.startswith(SQLITE) and not given.startswith(f"{SQLITE}/"):
        # A relative file is another database in every working directory.
        return f"{SQLITE}{Path(given.removeprefix(SQLITE)).absolute()}"
    return given


def _with_scheme(host: str) -> str:
    full = host if "://" in host else f"http://{host}"
    return full.rstrip("/")
