"""The commands for servers and workers, and for what they leave."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.cli.models import table_console
from flows.settings import environment, read_settings
from gptcore.errors import ConfigError

if TYPE_CHECKING:
    from flows.services.prefect_api import PrefectApi
    from flows.services.status import Report
    from flows.upkeep import Report as Findings

PrefectPortOption = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Port of Prefect's server; 0 chooses a free one. [default: 4200 if free]"),
]
MlflowPortOption = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Port of MLflow's server; 0 chooses a free one. [default: 5000 if free]"),
]
LimitOption = Annotated[int, typer.Option(min=1, help="Maximum number of concurrent runs.")]
TypeOption = Annotated[
    Literal["process", "docker", "kubernetes"],
    typer.Option("--type", help="Where a run executes: a process of the worker, a container, or a job of a cluster."),
]


def up(prefect_port: PrefectPortOption = None, mlflow_port: MlflowPortOption = None, limit: LimitOption = 1) -> None:
    """Start Prefect's server, MLflow's and a worker on this machine, deploy every flow, and return."""
    from flows.services import embedded

    wanted = embedded.Wanted(prefect_port=prefect_port, mlflow_port=mlflow_port, limit=limit)
    state = embedded.up(read_settings(), wanted, say=_say)
    _say("for prefect and mlflow in this terminal (the commands of gptworks find them by themselves):")
    for name, value in state.addresses.items():
        _say(f"  export {name}={value}")


def down() -> None:
    """Stop what up has started. A training saves a checkpoint first, and resumes after the next up."""
    from flows.services import embedded

    if not embedded.down(read_settings(), say=_say):
        _say(f"nothing was started for {read_settings().home}")


def status() -> None:
    """Show services, their health and waiting runs; the exit code is 1 if something is unhealthy."""
    from flows.services.state import read_state
    from flows.services.status import report

    settings = read_settings()
    state = read_state(settings.home)
    found = report(state, os.environ.get("PREFECT_API_URL") or state.api)
    if not found.lines:
        _say(f"nothing was started for {settings.home}; gptworks up starts it")
        sys.exit(1)
    _show(found)
    sys.exit(0 if found.well else 1)


def deploy(kind: TypeOption = "process", limit: LimitOption = 1) -> None:
    """Create the work pool on the server of PREFECT_API_URL and deploy every flow of prefect.yaml to it."""
    from flows.services import deploy as deploying

    with _prefect() as api:
        deploying.deploy(api, environment={**os.environ, **environment(read_settings())}, kind=kind, limit=limit)
        _say(f"deployed: {len(api.deployments())} flows of prefect.yaml to the pool {deploying.POOL} ({kind})")


def worker(
    kind: TypeOption = "process",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of concurrent runs of all queues together.")
    ] = None,
    with_healthcheck: Annotated[
        bool, typer.Option("--with-healthcheck", help="Serve a health check at PREFECT_WORKER_WEBSERVER_PORT.")
    ] = False,
) -> None:
    """Run a worker in this terminal; on SIGTERM its runs save a checkpoint and stop, to resume later."""
    from flows.services.worker import work
    from flows.upkeep import reconcile as look_after

    with _prefect() as api:
        url = api.url
    _show_findings(look_after(read_settings(), api_url=url))
    work(kind, limit=limit, healthcheck=with_healthcheck)


def drain(
    stop: Annotated[bool, typer.Option("--stop", help="Cancel the runs, which save a checkpoint first.")] = False,
    seconds: Annotated[
        float | None, typer.Option(help="How long to wait. [default: 90 with --stop, else a day]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Take work again; runs that a drain has stopped resume.")
    ] = False,
) -> None:
    """Drain the workers: start no new runs and wait for the running ones; --resume ends it."""
    from flows.services import drain as draining

    with _prefect() as api:
        if resume:
            draining.resume(api, say=_say)
            return
        there = draining.drain(api, stop=stop, seconds=seconds or (90.0 if stop else 86_400.0), say=_say)
    _say(f"empty: {len(there)} run{'' if len(there) == 1 else 's'} ended; gptworks drain --resume takes work again")


def reconcile(
    max_attempts: Annotated[int, typer.Option(min=1, help="Maximum number of attempts of a run that crashes.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
) -> None:
    """Close runs without a process, resume crashed ones, skip missed ones, remove half-written files."""
    from flows.upkeep import Policy
    from flows.upkeep import reconcile as look_after

    policy = Policy(max_attempts=max_attempts)
    api = os.environ.get("PREFECT_API_URL", "")
    _show_findings(look_after(read_settings(), api_url=api, policy=policy, dry_run=dry_run))


def clean(
    days: Annotated[float, typer.Option(min=0, help="Days to keep outputs that no model in use needs.")] = 30,
    newest: Annotated[int, typer.Option(min=0, help="Number of outputs of each stage to keep, however old.")] = 2,
    work_days: Annotated[float, typer.Option(min=0, help="Days to keep interrupted work.")] = 14,
    run_days: Annotated[float, typer.Option(min=0, help="Days to keep tracked runs that failed.")] = 30,
    download_days: Annotated[
        float | None, typer.Option(min=0, help="Days to keep downloads. [default: forever]")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them.")] = False,
) -> None:
    """List old outputs, interrupted work and failed runs that are not in use, and remove them with --yes."""
    from flows.upkeep.retention import Retention
    from flows.upkeep.retention import clean as tidy

    policy = Retention(
        output_days=days,
        newest=newest,
        work_days=work_days,
        failed_run_days=run_days,
        download_days=download_days,
    )
    done = tidy(read_settings(), policy, dry_run=not yes)
    _show_findings(done.report)
    _say(f"{done.freed / 1e6:.1f} MB; in use and kept: {', '.join(done.kept) or 'no model'}")
    if not yes and done.report.findings:
        _say("nothing was removed yet; to remove: gptworks clean --yes")


@contextmanager
def _prefect() -> Iterator[PrefectApi]:
    from flows.services.prefect_api import PrefectApi

    url = os.environ.get("PREFECT_API_URL")
    if not url:
        raise ConfigError(
            "no Prefect server is known; start one with gptworks up, or set PREFECT_API_URL to a running one"
        )
    with PrefectApi(url) as api:
        api.flow_names()  # fails now instead of later where nothing answers or the login is refused
        yield api


def _show(found: Report) -> None:
    console = table_console()
    table = Table("what", "state", "where", "log")
    for line in found.lines:
        table.add_row(line.name, line.state, Text(line.where), Text(line.log))
    console.print(table)
    if found.runs:
        runs = Table("run", "flow", "state", "queue", "attempt")
        for run in found.runs:
            flow = found.names.get(run["flow_id"], "")
            runs.add_row(run["name"], flow, run["state_name"], run["work_queue_name"] or "", str(run["run_count"]))
        console.print(runs)
    for queue, n in found.waiting.items():
        console.print(f"queue {queue}: {n} waiting")


def _show_findings(report: Findings) -> None:
    if report.findings:
        table = Table("what", "", "found", "would be" if report.dry_run else "done")
        for finding in report.findings:
            table.add_row(finding.kind, Text(finding.what), Text(finding.found), Text(finding.done))
        table_console().print(table)
    _say(str(report))


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


COMMANDS = (up, down, status, deploy, worker, drain, reconcile, clean)
"""In the order of the help."""
