"""docker-compose.yml, read as data: it fits the specification and keeps to what its images can and cannot do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE_FILE = ROOT / "docker-compose.yml"
TEXT = COMPOSE_FILE.read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NAMES = sorted(SERVICES)
# Images whose entrypoint must begin as root to hand a volume over, and then goes on as a user of its own.
STEPS_DOWN_ITSELF = {"chrislusf/seaweedfs"}
# What a health check may start: what the image is known to hold. None of them has curl.
PROBES = {
    "postgres": {"pg_isready"},
    "chrislusf/seaweedfs": {"wget"},
    "prefecthq/prefect": {"python"},
    "ghcr.io/mlflow/mlflow": {"python"},
    "gptworks-worker": {"python"},
    "gptworks-worker-gpu": {"python"},
    "ollama/ollama": {"ollama"},
}
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|AUTH_STRING|TOKEN")


def image(name: str) -> tuple[str, str]:
    """Repository and tag of a service's image."""
    repository, _, tag = SERVICES[name]["image"].rpartition(":")
    return repository, tag


def text_of(name: str) -> str:
    """Everything a service says about itself, as one string to search in."""
    return yaml.safe_dump(SERVICES[name], width=10_000)


def variables(*, required: bool) -> set[str]:
    """Names in `${NAME:?…}` if required, otherwise in `${NAME:-…}`."""
    return set(re.findall(r"\$\{([A-Z0-9_]+):" + re.escape("?" if required else "-"), TEXT))


def test_the_file_fits_the_compose_specification() -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_service_of_the_installation_is_there() -> None:
    assert {"postgres", "seaweedfs", "prefect", "mlflow", "worker", "ollama", "ollama-pull"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_published_ports_are_bound_to_loopback(name: str) -> None:
    assert [port for port in SERVICES[name].get("ports", []) if not str(port).startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", NAMES)
def test_images_have_an_explicit_tag(name: str) -> None:
    repository, tag = image(name)
    assert repository, f"{name}: image {SERVICES[name]['image']} has no tag"
    assert not tag.startswith("latest")
    assert re.search(r"\d+\.\d+", tag), f"{name}: tag {tag} names no version"


@pytest.mark.parametrize("name", NAMES)
def test_dependencies_exist_and_can_become_ready(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES, f"{name} depends on {other}, which is no service"
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other], f"{name} waits for {other} to be healthy, but nothing asks it"
        if how["condition"] == "service_completed_successfully":
            assert SERVICES[other]["restart"] == "no", f"{name} waits for {other} to end, but {other} restarts"


@pytest.mark.parametrize("name", NAMES)
def test_health_checks_start_what_the_image_holds(name: str) -> None:
    check = SERVICES[name].get("healthcheck")
    if check is None:
        assert SERVICES[name]["restart"] == "no", f"{name} runs on, but nothing asks whether it is well"
        return
    kind, program = check["test"][:2]
    assert kind == "CMD"
    assert program in PROBES[image(name)[0]]


@pytest.mark.parametrize("name", NAMES)
def test_services_run_without_root_and_within_limits(name: str) -> None:
    service = SERVICES[name]
    if image(name)[0] not in STEPS_DOWN_ITSELF:
        assert str(service.get("user", "root")).split(":")[0] not in {"root", "0"}, f"{name} runs as root"
    assert not service.get("privileged", False)
    assert "no-new-privileges:true" in service["security_opt"]
    limits = service["deploy"]["resources"]["limits"]
    assert limits["cpus"]
    assert limits["memory"]


@pytest.mark.parametrize("name", NAMES)
def test_secrets_come_from_the_environment_file(name: str) -> None:
    for key, value in SERVICES[name].get("environment", {}).items():
        if SECRET.search(key):
            assert re.fullmatch(r"\$\{[A-Z0-9_]+:\?[^}]+\}", str(value)), f"{name}: {key} is written out"
    passwords = re.findall(r"://[^:/\s]+:([^@\s]+(?: [^@\s]+)*)@", text_of(name))
    assert [word for word in passwords if not word.startswith("${")] == []


def test_the_example_environment_names_every_variable_and_no_value_of_a_secret() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    empty = set(re.findall(r"^([A-Z0-9_]+)=$", example, re.MULTILINE))
    optional = set(re.findall(r"^# ([A-Z0-9_]+)=.+$", example, re.MULTILINE))
    assert empty == variables(required=True)
    assert optional == variables(required=False)


def test_the_volume_of_postgres_lies_where_its_version_expects_it() -> None:
    _, tag = image("postgres")
    assert int(tag.split(".")[0]) >= 18
    targets = [volume.split(":")[1] for volume in SERVICES["postgres"]["volumes"]]
    assert targets == ["/var/lib/postgresql"]


def test_both_databases_are_made() -> None:
    assert SERVICES["postgres"]["environment"]["POSTGRES_DB"] == "prefect"
    (config,) = SERVICES["postgres"]["configs"]
    assert config["target"].startswith("/docker-entrypoint-initdb.d/")
    assert "CREATE DATABASE mlflow" in COMPOSE["configs"][config["source"]]["content"]
    assert "@postgres:5432/prefect" in text_of("prefect")
    assert "@postgres:5432/mlflow" in text_of("mlflow")


def test_mlflow_answers_to_the_name_its_clients_use() -> None:
    host = SERVICES["worker"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    (allowed,) = [word for word in SERVICES["mlflow"]["command"] if word.startswith("--allowed-hosts=")]
    assert host in allowed.removeprefix("--allowed-hosts=").split(",")
    assert host.split(":")[0] in SERVICES
    assert image("mlflow")[1].endswith("-full"), "the plain image has neither psycopg2 nor boto3"


def test_servers_have_the_versions_that_the_project_is_tested_with() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    assert image("prefect")[1].startswith(f"{pins['prefect']}-")
    assert image("mlflow")[1] == f"v{pins['mlflow']}-full"


def test_addresses_between_services_name_services_and_their_ports() -> None:
    own = {"localhost", "127.0.0.1", "download.pytorch.org"}
    hosts = {host for name in NAMES for host in re.findall(r"https?://([a-z0-9.-]+)", text_of(name))}
    assert hosts - own <= set(NAMES)
    assert (
        SERVICES["prefect"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"]
        == (SERVICES["worker"]["environment"]["PREFECT_API_AUTH_STRING"])
    )


def test_a_worker_and_the_judge_are_started_as_the_profiles_say() -> None:
    profiles = {name: SERVICES[name]["profiles"] for name in NAMES if "profiles" in SERVICES[name]}
    assert profiles == {"worker": ["cpu"], "worker-gpu": ["gpu"], "ollama": ["judge"], "ollama-pull": ["judge"]}
    assert "COMPOSE_PROFILES=cpu\n" in (ROOT / ".env.example").read_text(encoding="utf-8")
    assert SERVICES["ollama-pull"]["environment"]["OLLAMA_HOST"] == "http://ollama:11434"
    for name in set(NAMES) - {"ollama-pull"}:
        assert "ollama" not in SERVICES[name].get("depends_on", {}), f"{name} would not start without the profile"


def test_the_worker_with_gpus_asks_for_them_and_has_memory_for_loaders() -> None:
    (devices,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (devices["driver"], devices["capabilities"]) == ("nvidia", ["gpu"])
    assert SERVICES["worker-gpu"]["shm_size"] == "8g"
    same = ("command", "volumes", "stop_grace_period", "healthcheck", "depends_on")
    assert all(SERVICES["worker-gpu"][part] == SERVICES["worker"][part] for part in same)
    differing = {
        name
        for name, value in SERVICES["worker-gpu"]["environment"].items()
        if SERVICES["worker"]["environment"][name] != value
    }
    assert differing == {"OMP_NUM_THREADS"}


@pytest.mark.parametrize("name", NAMES)
def test_services_have_no_more_rights_than_handing_a_volume_over_takes(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    allowed = {"CHOWN", "SETGID", "SETUID"} if image(name)[0] in STEPS_DOWN_ITSELF else set()
    assert set(service.get("cap_add", [])) == allowed


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.is_file():
        pytest.skip("hadolint is not installed; it is part of the dev extra")
    result = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_image_holds_what_the_commands_of_its_services_read() -> None:
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {"!prefect.yaml", "!deploy", "!flows", "!gptcore", "!eval"} <= set(kept)


def test_named_volumes_are_declared_and_used() -> None:
    used = {volume.split(":")[0] for name in NAMES for volume in SERVICES[name].get("volumes", [])}
    assert used == set(COMPOSE["volumes"])


def test_the_image_of_the_worker_runs_as_the_user_compose_names() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    uid = re.search(r"useradd --uid (\d+)", dockerfile)
    assert uid
    assert SERVICES["worker"]["user"] == f"{uid.group(1)}:{uid.group(1)}"
    last_user = re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE)[-1]
    assert last_user not in {"root", "0"}
    pins = dockerfile.index("COPY pyproject.toml constraints.txt")
    assert pins < dockerfile.index("pip install") < dockerfile.index("COPY . ."), (
        "a change of code reinstalls everything"
    )
