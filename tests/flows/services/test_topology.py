"""docker-compose.yml as real processes: its commands, variables, health checks and order, read from the file itself.

What an engine would do is done here: names of services become ports of this machine, and folders of a container become
folders of the test. Three things differ: the object store is moto's, PostgreSQL is Debian's, and its driver for MLflow
is pg8000 where the image has psycopg2.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from flows.services.prefect_api import PrefectApi
from flows.services.processes import Process, choose_port, end, flow_processes, launch, tail
from flows.settings import read_settings
from flows.tracking.runs import PREFIX, connect

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).resolve().parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PORTS = {"postgres": 5432, "seaweedfs": 8333, "prefect": 4200, "mlflow": 5000, "worker": 8080}
ORDER = ("postgres", "seaweedfs", "bucket", "prefect", "mlflow", "deploy", "worker")
SECRETS = {"POSTGRES_PASSWORD": "q7", "PREFECT_AUTH": "ann:w3", "S3_ACCESS_KEY": "k1", "S3_SECRET_KEY": "k2"}
KEPT = ("PATH", "LANG", "TMPDIR", "GPTWORKS_SHARED_DATA", "TIKTOKEN_CACHE_DIR")
STEPS, LOGGED = 1200, 20


def postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed; apt-get install postgresql")
    return found[-1].parent


@dataclass
class Topology:
    """The services of the file, as processes."""

    folder: Path
    programs: Path
    cluster: Path
    """Of PostgreSQL, which may not run as root: a folder of its own user."""
    ports: dict[str, int] = field(default_factory=dict)
    running: dict[str, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in PORTS:
            self.ports[name] = choose_port(0, default=0, option="")

    # --- what compose does with a text

    def value(self, text: Any) -> str:
        """With variables filled in, names of services as addresses, folders of a container as folders here."""
        filled = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: SECRETS[found[1]], str(text))
        filled = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", filled)
        if filled.startswith("--allowed-hosts="):
            return filled
        for name, port in PORTS.items():
            filled = re.sub(rf"(?<![\w/]){name}:{port}", f"127.0.0.1:{self.ports[name]}", filled)
            filled = re.sub(rf"(//|@){name}:{port}", rf"\g<1>127.0.0.1:{self.ports[name]}", filled)
            filled = filled.replace(f"127.0.0.1:{port}", f"127.0.0.1:{self.ports[name]}")
            filled = re.sub(rf"^(--port=)?{port}$", rf"\g<1>{self.ports[name]}", filled)
        filled = filled.replace("0.0.0.0", "127.0.0.1").replace("+psycopg2:", "+pg8000:")
        return filled.replace("/app/var", str(self.folder / "work")).replace(
            "/tmp/prefect", str(self.folder / "prefect")
        )

    def variables(self, name: str) -> dict[str, str]:
        """All of a service's variables, and what an image would have in its own."""
        own = {key: self.value(value) for key, value in COMPOSE["services"][name].get("environment", {}).items()}
        kept = {key: os.environ[key] for key in KEPT if key in os.environ}
        port = {"PREFECT_WORKER_WEBSERVER_PORT": str(self.ports["worker"]), "PREFECT_WORKER_QUERY_SECONDS": "1"}
        home = {"HOME": str(self.folder), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        postgres = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.ports["postgres"]),
            "PGPASSWORD": SECRETS["POSTGRES_PASSWORD"],
        }
        return {**kept, **home, **port, **postgres, **own, "OLLAMA_HOST": "127.0.0.1:9", "OMP_NUM_THREADS": "1"}

    def words(self, given: list[Any]) -> list[str]:
        """A command, its program as this machine has it."""
        words = [self.value(word) for word in given]
        programs = {
            "gptworks": [sys.executable, "-m", "flows"],
            "prefect": [sys.executable, "-m", "prefect"],
            "mlflow": [sys.executable, "-m", "mlflow"],
            "python": [sys.executable],
            "pg_isready": [str(self.programs / "pg_isready")],
        }
        return [*programs.get(words[0], words[:1]), *words[1:]]

    # --- its services

    def start(self, name: str) -> None:
        """Start a service when those that it depends on are ready, and wait until it is."""
        service = COMPOSE["services"][name]
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert self.healthy(other), f"{name} starts before {other} is well"
        command = self._command(name)
        if service["restart"] == "no":
            done = subprocess.run(
                command,
                env=self.variables(name),
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
            return
        log = self.folder / f"{name}.log"
        self.running[name] = launch(command, environment=self.variables(name), log=log, cwd=self.folder)
        deadline = time.monotonic() + 240
        while not self.healthy(name):
            assert self.running[name].alive, f"{name} has ended:\n{tail(log, lines=40)}"
            assert time.monotonic() < deadline, f"{name} does not become well:\n{tail(log, lines=40)}"
            time.sleep(1)

    def healthy(self, name: str) -> bool:
        """What the service's own health check says."""
        if name == "seaweedfs":  # moto has no such page
            return (
                httpx.get(f"http://127.0.0.1:{self.ports[name]}/moto-api/", trust_env=False).is_success
                if self._listens(name)
                else False
            )
        test = self.words(COMPOSE["services"][name]["healthcheck"]["test"][1:])
        done = subprocess.run(test, env=self.variables(name), capture_output=True, timeout=60, check=False)
        return done.returncode == 0

    def kill(self, name: str) -> None:
        """A service and its children at once."""
        root = psutil.Process(self.running[name].pid)
        family = [*root.children(recursive=True), root]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=10)

    def stop(self) -> None:
        """Everything, the last first."""
        for name in reversed(ORDER):
            if name in self.running:
                end(self.running[name], seconds=60)

    def _listens(self, name: str) -> bool:
        found = psutil.net_connections(kind="tcp")
        return any(c.laddr and c.laddr.port == self.ports[name] and c.status == psutil.CONN_LISTEN for c in found)

    def _command(self, name: str) -> list[str]:
        service = COMPOSE["services"][name]
        if name == "postgres":
            data = self.cluster / "data"
            server = [self.programs / "postgres", "-D", data, "-p", self.ports[name], "-k", data, "-h", "127.0.0.1"]
            return [*self._as_postgres(), *map(str, server)]
        if name == "seaweedfs":
            return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.ports[name])]
        return self.words([*service.get("entrypoint", []), *service["command"]])

    # --- PostgreSQL, as its image sets it up

    def prepare_postgres(self) -> None:
        """A new cluster with the user of the compose file."""
        data, password = self.cluster / "data", self.cluster / "password"
        password.write_text(SECRETS["POSTGRES_PASSWORD"])
        user = COMPOSE["services"]["postgres"]["environment"]["POSTGRES_USER"]
        data.mkdir()
        if os.getuid() == 0:
            for path in (self.cluster, data, password):
                shutil.chown(path, "postgres")
        flags = [f"--username={user}", f"--pwfile={password}", "--auth=scram-sha-256", "--no-sync"]
        command = [*self._as_postgres(), str(self.programs / "initdb"), "-D", str(data), *flags]
        subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=self.cluster)

    def make_databases(self) -> None:
        """What the image makes at its first start: its own database, and those of the script beside it."""
        facts = COMPOSE["services"]["postgres"]
        (config,) = facts["configs"]
        own = f"CREATE DATABASE {facts['environment']['POSTGRES_DB']};"
        for statement in (own, COMPOSE["configs"][config["source"]]["content"]):
            command = [
                self.programs / "psql",
                "-U",
                facts["environment"]["POSTGRES_USER"],
                "-d",
                "postgres",
                "-c",
                statement,
            ]
            subprocess.run(command, env=self.variables("postgres"), check=True, capture_output=True, timeout=60)

    def _as_postgres(self) -> list[str]:
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    cluster = Path(tempfile.mkdtemp(prefix="gptworks-postgres-"))
    found = Topology(tmp_path_factory.mktemp("topology"), postgres_programs(), cluster)
    api = f"http://127.0.0.1:{found.ports['prefect']}/api"
    try:
        found.prepare_postgres()
        for name in ORDER:
            found.start(name)
            if name == "postgres":
                found.make_databases()
        yield found
    finally:
        found.stop()
        shutil.rmtree(cluster)
        assert list(flow_processes(api)) == []


def run(topology: Topology, *arguments: str) -> str:
    """As `docker compose exec worker prefect deployment run` does."""
    command = [sys.executable, "-m", "prefect", "deployment", "run", *arguments]
    done = subprocess.run(
        command, env=topology.variables("worker"), cwd=topology.folder, capture_output=True, text=True, timeout=700
    )
    worker = tail(topology.folder / "worker.log", lines=40)
    assert done.returncode == 0, done.stdout + done.stderr + worker
    return done.stdout


def tracked(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of MLflow as the worker has it."""
    variables = topology.variables("worker")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    return connect(read_settings(variables))


def test_the_whole_pipeline_runs_on_the_services_of_the_compose_file(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(topology, "pipeline/demo", "-p", "preset=tiny", "--watch", "--watch-interval", "2", "--watch-timeout", "600")
    client = tracked(topology, monkeypatch)
    experiments = client.search_experiments(filter_string=f"name LIKE '{PREFIX}/%'")
    assert len(experiments) == 8
    assert {each.artifact_location.partition(":")[0] for each in experiments} == {"mlflow-artifacts"}
    runs = client.search_runs([each.experiment_id for each in experiments])
    assert [run.info.status for run in runs] == ["FINISHED"] * 8
    assert "report.html" in {file.path for run in runs for file in client.list_artifacts(run.info.run_id)}
    assert objects(topology) > 20
    assert "well" in status(topology)


def test_mlflow_answers_to_the_name_that_its_clients_have_in_the_file(topology: Topology) -> None:
    url = f"http://127.0.0.1:{topology.ports['mlflow']}/api/2.0/mlflow/experiments/search"
    body = {"max_results": 1}
    for host, code in (("mlflow:5000", 200), ("elsewhere:5000", 403)):
        answer = httpx.post(url, json=body, headers={"Host": host}, trust_env=False, timeout=30)
        assert answer.status_code == code, answer.text


def test_prefect_asks_for_its_password(topology: Topology) -> None:
    url = f"http://127.0.0.1:{topology.ports['prefect']}/api/flows/filter"
    assert httpx.post(url, json={}, trust_env=False, timeout=30).status_code == 401
    user, _, password = SECRETS["PREFECT_AUTH"].partition(":")
    assert httpx.post(url, json={}, auth=(user, password), trust_env=False, timeout=30).status_code == 200


def test_a_killed_postgres_costs_no_step_and_no_point(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = [
        f"pretrain.train.steps={STEPS}",
        f"pretrain.train.log_every={LOGGED}",
        "pretrain.train.eval_every=1200",
    ]
    parameters = f"overrides={[*overrides, 'pretrain.train.checkpoint_every=20']}".replace("'", '"')
    begun = time.time()
    said = run(topology, "pretrain/demo", "-p", "preset=tiny", "-p", parameters)
    found = re.search(r"UUID: ([0-9a-f-]{36})", said)
    assert found, said
    checkpoints = topology.folder / "work" / "store" / "pretrain"
    deadline = time.monotonic() + 180
    while not [p for p in checkpoints.glob("*.work/run/checkpoints/step-*/manifest.json") if p.stat().st_mtime > begun]:
        assert time.monotonic() < deadline, tail(topology.folder / "worker.log", lines=40)
        time.sleep(0.3)
    topology.kill("postgres")
    time.sleep(3)
    topology.start("postgres")
    with PrefectApi(f"http://127.0.0.1:{topology.ports['prefect']}/api", auth=SECRETS["PREFECT_AUTH"]) as api:
        ended = wait_for_end(topology, api, found[1])
    assert ended["state_name"] == "Completed"
    status_of = subprocess.run(
        [sys.executable, "-m", "flows", "reconcile"], env=topology.variables("worker"), capture_output=True, timeout=200
    )
    assert status_of.returncode == 0
    client = tracked(topology, monkeypatch)
    experiment = client.get_experiment_by_name(f"{PREFIX}/pretrain")
    (own,) = client.search_runs(
        [experiment.experiment_id], filter_string=f"tags.`prefect.flow_run_id` = '{found[1]}'", run_view_type=3
    )
    assert own.info.status == "FINISHED"
    history = client.get_metric_history(own.info.run_id, "train/loss")
    assert [point.step for point in history] == list(range(LOGGED, STEPS + 1, LOGGED))


def wait_for_end(topology: Topology, api: PrefectApi, run_id: str) -> dict[str, Any]:
    """Its last state; if the server has lost it, reconcile has it go on."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        found = api.run(run_id)
        assert found is not None
        if found["state_name"] == "Completed":
            return found
        if found["state_name"] == "Crashed":
            command = [sys.executable, "-m", "flows", "reconcile"]
            subprocess.run(command, env=topology.variables("worker"), check=True, capture_output=True, timeout=200)
        time.sleep(2)
    pytest.fail(f"{run_id} has not ended: {tail(topology.folder / 'worker.log', lines=40)}")


def status(topology: Topology) -> str:
    command = [sys.executable, "-m", "flows", "status"]
    done = subprocess.run(command, env=topology.variables("worker"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def objects(topology: Topology) -> int:
    """How many objects are in the store."""
    import boto3

    store = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{topology.ports['seaweedfs']}",
        aws_access_key_id=SECRETS["S3_ACCESS_KEY"],
        aws_secret_access_key=SECRETS["S3_SECRET_KEY"],
        region_name="us-east-1",
    )
    found: int = store.list_objects_v2(Bucket="mlflow")["KeyCount"]
    return found
