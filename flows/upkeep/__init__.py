"""Look after what others have left: runs without a process, half-written files, outputs nobody needs."""

from flows.upkeep.findings import Finding, Report
from flows.upkeep.reconcile import Policy, reconcile

__all__ = ["Finding", "Policy", "Report", "reconcile"]
