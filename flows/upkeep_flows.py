"""The flows that look after the others: ``reconcile`` and ``clean``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from prefect import flow
from prefect.settings import PREFECT_API_URL
from pydantic import Field

from flows.orchestrator.flow_run import check_worker_home, publish_table
from flows.settings import read_settings
from flows.upkeep import Policy, retention
from flows.upkeep import reconcile as look_after
from flows.upkeep.retention import Retention

Rows = list[dict[str, str]]


@flow(
    name="reconcile",
    description="Close runs without a process, resume crashed ones, skip missed ones, remove partial outputs.",
)
def reconcile(
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3,
    window_hours: Annotated[float, Field(gt=0)] = 24,
    dry_run: bool = False,
) -> Rows:
    """Clean up after killed processes.

    Args:
        max_attempts: the most attempts of a run that crashes; 1 resumes none.
        window_hours: a run that crashed longer ago is left alone.
        dry_run: only report what would be done.

    Returns:
        Each finding: kind, what, found, done.
    """
    check_worker_home()
    policy = Policy(max_attempts, timedelta(hours=window_hours))
    report = look_after(read_settings(), api_url=PREFECT_API_URL.value() or "", policy=policy, dry_run=dry_run)
    publish_table("reconcile", report.rows(), description=str(report))
    return report.rows()


@flow(name="clean", description="Remove old outputs, interrupted work and failed runs that no model in use needs.")
def clean(policy: Retention | None = None, dry_run: bool = True) -> Rows:
    """Remove outputs that are old and unused.

    Args:
        policy: how long each kind is kept.
        dry_run: only report what would be removed.

    Returns:
        Each thing: kind, what, found, done.
    """
    check_worker_home()
    done = retention.clean(read_settings(), policy or Retention(), dry_run=dry_run)
    text = f"{done.report}, {done.freed / 1e6:.0f} MB; kept for {', '.join(done.kept) or 'no model'}"
    publish_table("clean", done.report.rows(), description=f"dry run: {text}" if dry_run else text)
    return done.report.rows()
