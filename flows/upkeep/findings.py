"""Findings of a check, and what was done about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Finding:
    """One problem."""

    kind: str
    """``prefect run``, ``mlflow run``, ``output``, ``file``, ``lock`` or ``server``."""
    what: str
    """Its name or path."""
    found: str
    """Its state before."""
    done: str
    """What was done."""


@dataclass
class Report:
    """All findings of one check."""

    dry_run: bool = False
    """Whether nothing was changed: ``done`` is then what would be done."""
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, what: str, *, found: str, done: str) -> None:
        """Add one finding."""
        self.findings.append(Finding(kind, what, found, done))

    def rows(self) -> list[dict[str, str]]:
        """The findings as plain rows."""
        return [asdict(finding) for finding in self.findings]

    def __str__(self) -> str:
        """The findings by kind, in one line."""
        kinds = [finding.kind for finding in self.findings]
        counts = [f"{kinds.count(kind)} {kind}{'s' * (kinds.count(kind) > 1)}" for kind in dict.fromkeys(kinds)]
        return ", ".join(counts) or "all in order"
