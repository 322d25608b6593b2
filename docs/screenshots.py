"""The pictures of the documentation, of real runs in real servers: ``make screenshots``.

Starts an MLflow and a Prefect server in a temporary folder, pretrains two tiny models on the text of this repository's
documentation, registers them, and takes the pages in headless Chromium.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mlflow import MlflowClient
from playwright.sync_api import Page, sync_playwright

from flows.settings import environment, read_settings

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
BIN = Path(sys.executable).parent
SIZE = {"width": 1280, "height": 800}
RATES = ("3e-3", "1e-3")
CURVE = "val/loss"
MODEL = "gptworks-tiny"


def main() -> None:
    """Make the runs, and take the pictures."""
    PICTURES.mkdir(exist_ok=True)
    with ExitStack() as running:
        home = Path(running.enter_context(tempfile.TemporaryDirectory()))
        mlflow, prefect = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        environ = surroundings(home, mlflow, prefect)
        Path(environ["PREFECT_HOME"]).mkdir(parents=True)  # of which Prefect itself makes the last folder alone
        running.enter_context(mlflow_server(mlflow, home, environ))
        running.enter_context(prefect_server(prefect, environ))
        for rate in RATES:
            pretrain(rate, environ)
        client = MlflowClient(mlflow)
        runs = newest(client, len(RATES))
        register(client, runs)
        flow_run = client.get_run(runs[0]).data.tags["prefect.flow_run_id"]
        pages = {
            "mlflow-compare": f"{mlflow}/#/metric?{compared(client, runs)}",
            "mlflow-model": f"{mlflow}/#/models/{MODEL}",
            "prefect-run": f"{prefect}/runs/flow-run/{flow_run}",
        }
        take(pages)


def take(pages: dict[str, str]) -> None:
    """A picture of each page."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        raise SystemExit("no Chromium on PATH; Debian, Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        for name, url in pages.items():
            settled(page, url)
            page.screenshot(path=PICTURES / f"{name}.png")
            sys.stdout.write(f"{PICTURES / f'{name}.png'}\n")
        browser.close()


def settled(page: Page, url: str) -> None:
    """Open a page, and give its figures the time to be drawn."""
    page.goto(url)
    page.wait_for_load_state("load")
    page.wait_for_timeout(8000)
    page.keyboard.press("Escape")  # what a page greets its first visitor with
    if (pane := page.get_by_role("button", name="Close")).count():  # MLflow's assistant
        pane.last.click()
    for text in ("Artifacts", "Step"):  # Prefect's tab and MLflow's axis, which no address can name
        if (found := page.get_by_text(text, exact=True)).count():
            found.first.click()
    page.wait_for_timeout(2000)


def surroundings(home: Path, mlflow: str, prefect: str) -> dict[str, str]:
    """The environment of everything that is started here."""
    given = {"GPTWORKS_HOME": str(home / "var"), "MLFLOW_TRACKING_URI": mlflow}
    own = environment(read_settings(given))
    return {
        **{name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ},
        **own,
        "PATH": f"{BIN}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": f"{prefect}/api",
    }


@contextmanager
def mlflow_server(url: str, home: Path, environ: dict[str, str]) -> Iterator[None]:
    """``mlflow server`` until the block is left."""
    command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", port(url), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{home}/mlflow.db",
        "--artifacts-destination",
        str(home / "artifacts"),
    ]
    with serving(command, f"{url}/health", {k: v for k, v in environ.items() if k != "MLFLOW_TRACKING_URI"}):
        yield


@contextmanager
def prefect_server(url: str, environ: dict[str, str]) -> Iterator[None]:
    """``prefect server`` until the block is left."""
    command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", port(url)]
    with serving(command, f"{url}/api/health", environ):
        yield


@contextmanager
def serving(command: list[str], health: str, environ: dict[str, str]) -> Iterator[None]:
    """A server that answers, until the block is left."""
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        until = time.monotonic() + 300
        while not answers(health):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{' '.join(command)} does not answer at {health}")
            time.sleep(0.5)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait()


def answers(url: str) -> bool:
    """Whether a server is up."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def pretrain(rate: str, environ: dict[str, str]) -> None:
    """A tiny model on the documentation."""
    command = [sys.executable, "-m", "flows", "pretrain", "--preset", "tiny", "--corpus", str(ROOT / "docs")]
    for setting in ("steps=120", "log_every=2", "eval_every=10", f"optimizer.lr={rate}"):
        command += ["--set", f"pretrain.train.{setting}"]
    subprocess.run(command, env=environ, cwd=ROOT, check=True)


def experiment(client: MlflowClient) -> str:
    """Id of the pretraining experiment."""
    found = client.get_experiment_by_name("gptworks/pretrain")
    if found is None:
        raise SystemExit("no run has reached MLflow")
    return str(found.experiment_id)


def newest(client: MlflowClient, n: int) -> list[str]:
    """Ids of the newest runs."""
    found = client.search_runs([experiment(client)], max_results=n, order_by=["attributes.start_time DESC"])
    return [str(run.info.run_id) for run in found]


def compared(client: MlflowClient, runs: list[str]) -> str:
    """The query of the page that compares the curves of runs."""
    asked = {"runs": runs, "experiments": [experiment(client)], "metric": CURVE, "plot_metric_keys": [CURVE]}
    return urllib.parse.urlencode({name: json.dumps(value) for name, value in asked.items()})


def register(client: MlflowClient, runs: list[str]) -> None:
    """A registered model with a version for each run, and aliases."""
    client.create_registered_model(MODEL, description="Tiny models of the documentation, made for its pictures.")
    for run_id in reversed(runs):
        version = client.create_model_version(MODEL, f"runs:/{run_id}/run/checkpoint", run_id).version
        client.set_registered_model_alias(MODEL, "challenger", version)
    client.set_registered_model_alias(MODEL, "champion", "1")


def port(url: str) -> str:
    """The port of an address."""
    return url.rpartition(":")[2]


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
