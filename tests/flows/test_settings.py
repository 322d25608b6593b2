"""Settings: defaults, absolute paths, and an environment that keeps what the user chose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.settings import apply_environment, environment, read_settings
from gptcore.errors import ConfigError


def test_defaults_live_below_one_absolute_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read_settings({})
    assert settings.home == tmp_path / "var"
    assert settings.store == tmp_path / "var" / "store"
    assert settings.mlflow_uri == f"sqlite:///{tmp_path}/var/mlflow.db"
    assert settings.artifact_root == tmp_path / "var" / "artifacts"
    assert settings.prefect_home == tmp_path / "var" / "prefect"
    assert settings.ollama_host == "http://127.0.0.1:11434"
    assert not settings.home.exists()


def test_a_relative_sqlite_uri_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read_settings({"MLFLOW_TRACKING_URI": "sqlite:///runs/mlflow.db"})
    assert settings.mlflow_uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert settings.mlflow_is_local


def test_a_server_uri_is_kept_and_is_the_address_for_the_browser() -> None:
    settings = read_settings({"MLFLOW_TRACKING_URI": "http://mlflow:5000", "OLLAMA_HOST": "judge:1234/"})
    assert settings.mlflow_uri == settings.mlflow_ui == "http://mlflow:5000"
    assert not settings.mlflow_is_local
    assert settings.ollama_host == "http://judge:1234"


def test_a_browser_address_may_differ_from_the_servers() -> None:
    given = {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "GPTWORKS_MLFLOW_UI": "https://runs.example.org/"}
    assert read_settings(given).mlflow_ui == "https://runs.example.org"


def test_a_folder_as_tracking_store_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"'\./mlruns'; it must start with sqlite:///.*unset it"):
        read_settings({"MLFLOW_TRACKING_URI": "./mlruns"})


def test_a_file_as_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(ConfigError, match="expected a folder, or a path that does not exist yet, got the file"):
        read_settings({"GPTWORKS_HOME": str(tmp_path / "taken")})


def test_applying_keeps_what_the_user_has_set(tmp_path: Path) -> None:
    environ = {"GPTWORKS_HOME": str(tmp_path), "PREFECT_HOME": "/elsewhere", "MLFLOW_HTTP_REQUEST_TIMEOUT": "90"}
    settings = read_settings(environ)
    changed = apply_environment(settings, environ)
    assert environ["PREFECT_HOME"] == "/elsewhere"
    assert environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "90"
    assert "PREFECT_HOME" not in changed
    assert environ["MLFLOW_TRACKING_URI"] == settings.mlflow_uri
    assert environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == "180"
    assert apply_environment(settings, environ) == []


def test_no_variable_is_empty_and_telemetry_is_off(tmp_path: Path) -> None:
    values = environment(read_settings({"GPTWORKS_HOME": str(tmp_path)}))
    assert all(values.values())
    assert values["MLFLOW_DISABLE_TELEMETRY"] == values["DO_NOT_TRACK"] == "true"


def test_importing_the_settings_imports_neither_prefect_nor_mlflow() -> None:
    code = "import sys, flows.settings; sys.exit(any(name in sys.modules for name in ('prefect', 'mlflow', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0
