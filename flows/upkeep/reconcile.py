"""One look at everything that killed processes leave, and its putting in order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from flows.services.prefect_api import PrefectApi
from flows.services.processes import ServiceError
from flows.settings import Settings
from flows.upkeep import leftovers
from flows.upkeep.findings import Report
from flows.upkeep.orphans import Orphans


@dataclass(frozen=True)
class Policy:
    """How far to go."""

    max_attempts: int = 3
    """Maximum number of attempts of a run that crashes."""
    window: timedelta = timedelta(days=1)
    """A run that crashed longer ago is left alone."""


def reconcile(settings: Settings, *, api_url: str, policy: Policy | None = None, dry_run: bool = False) -> Report:
    """Close runs without a process, resume crashed ones, skip missed ones, remove half-written files.

    Without an ``api_url`` Prefect's runs are left alone. A server that does not answer is a finding, and the rest is
    done without it.
    """
    policy = policy or Policy()
    report = Report(dry_run)
    try:
        if api_url:
            with PrefectApi(api_url) as api:
                _look_after(Orphans(settings, report, api), policy)
        else:
            _close_tracked(Orphans(settings, report, None))
    except ServiceError as error:
        report.add("server", "prefect", found=str(error), done="its runs are left alone")
        _close_tracked(Orphans(settings, report, None))
    leftovers.clear(settings, report)
    return report


def _look_after(orphans: Orphans, policy: Policy) -> None:
    orphans.close_prefect_runs()
    _close_tracked(orphans)  # before a new attempt takes them up again
    orphans.skip_missed_runs()
    orphans.retry_crashed_runs(max_attempts=policy.max_attempts, window=policy.window)


def _close_tracked(orphans: Orphans) -> None:
    try:
        orphans.send_journals()
        orphans.close_mlflow_runs()
    except ServiceError:
        raise
    except Exception as error:  # whatever a client raises while its server is away
        text = f"{orphans.settings.mlflow_uri}: {type(error).__name__}: {error}"
        orphans.report.add("server", "mlflow", found=text, done="its runs are left alone")
