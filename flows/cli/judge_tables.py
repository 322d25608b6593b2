"""What the commands about the judge print."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from eval.stats import Interval, WinRate
    from eval.tournament import Match
    from flows.judged_runs.calibration import Calibrated
    from flows.judged_runs.pairs import SideBySide
    from flows.judged_runs.runs import Compared


def print_side_by_side(result: SideBySide) -> None:
    """Validity first, then each match, the position bias, and the strengths."""
    found, console = result.tournament, Console()
    if result.invalid_because:
        console.print(
            f"[bold red]judge not validated[/], take no verdict from this: {'; '.join(result.invalid_because)}"
        )
    if len(found.matches) == 1:
        console.print(f"[bold]{found.matches[0].verdict}[/]")
    matches = Table(
        "candidate", "baseline", "verdict", "win rate", "p", "at equal length", "won, lost, tied", "unscored"
    )
    for match in found.matches:
        rate, level = match.rate, match.at_equal_length
        if rate is None or level is None:
            matches.add_row(match.candidate, match.baseline, "nothing scored", "-", "-", "-", "-", "all")
            continue
        counts = f"{rate.wins}, {rate.losses}, {rate.ties}"
        figures = (_interval(rate.rate), f"{match.p_adjusted:.4f}", _interval(level.controlled), counts)
        matches.add_row(match.candidate, match.baseline, match.verdict, *figures, str(rate.n_unscored))
    console.print(matches)
    for match in found.matches:
        if match.rate is not None:
            console.print(_position_bias(match, match.rate), soft_wrap=True)
    if found.strengths is not None:
        strengths = Table("model", "strength", "95% interval")
        for name, strength in found.strengths.strengths.items():
            strengths.add_row(name, f"{strength.mean:+.2f}", f"{strength.low:+.2f} to {strength.high:+.2f}")
        console.print(strengths)
        console.print(
            "strength: log odds of a decided game, mean 0; a difference of 1 is odds of 2.7 to 1", soft_wrap=True
        )
    elif len(found.matches) > 1:
        console.print(f"no strengths: {found.no_strengths}", soft_wrap=True)
    console.print(f"MLflow run {result.run_id}", soft_wrap=True)


def print_comparison(result: Compared) -> None:
    """Validity and verdict first, then the figures."""
    found, console = result.comparison, Console()
    invalid = result.invalid_because
    if invalid:
        console.print(f"[bold red]judge not validated[/], take no verdict from this: {'; '.join(invalid)}")
    needs = "" if found.items_needed is None else f" (needs about {found.items_needed:,} items)"
    console.print(f"[bold]{found.verdict}[/]{needs if found.verdict == 'not distinguishable' else ''}")
    paired, table = found.paired, Table("figure", "value", "meaning")
    rows = (
        ("difference", f"{paired.difference:+.2f} points", f"candidate minus baseline over {paired.n} items"),
        ("95% interval", f"{paired.low:+.2f} to {paired.high:+.2f}", "paired bootstrap over the items"),
        ("p", f"{found.p_adjusted:.4f}", "sign-flip permutation test"),
        (
            "detectable",
            f"{paired.minimum_detectable:.2f} points",
            "the smallest difference that this many items detect with 80% power",
        ),
        ("bounds", f"{found.bound_low:+.2f} to {found.bound_high:+.2f}", f"with the {found.n_unscored} unscored"),
        (
            "passing",
            f"+{found.passes.gained} -{found.passes.lost}",
            f"at 60 points; McNemar p {found.passes.p_value:.3f}",
        ),
        ("Wilcoxon p", f"{found.wilcoxon_p:.4f}", "secondary: compares medians"),
        (
            "equal length",
            _interval(result.at_equal_length.controlled),
            "points, adjusted to equal length of the answers",
        ),
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"MLflow run {result.run_id}", soft_wrap=True)


def print_calibration(result: Calibrated) -> None:
    """Agreement beside baselines, each demand, and whether the judge is accepted."""
    console, found = Console(), result.calibration
    table = Table("scorer", "items", "n", "Spearman", "Kendall", "kappa (pass)", "kappa", "agree (pass)")
    for items, own, others in (
        ("all", found.judge, found.baselines),
        ("answer is not the reference", found.judge_hard, found.baselines_hard),
    ):
        for scorer, report in [("judge", own), *others.items()]:
            if report is not None:
                figures = (report.spearman, report.kendall, report.pass_kappa, report.kappa, report.same_side)
                table.add_row(scorer, items, str(report.n), *map(_interval, figures))
    console.print(table)
    if not result.has_texts:
        console.print(
            "no columns response and reference: no baselines, and hard items are not distinguished from easy ones"
        )
    checks = Table("demand", "value", "bound", "")
    for check in result.acceptance.checks:
        passed = "[green]met[/]" if check.passed else f"[red]not met[/]: {check.meaning}"
        checks.add_row(check.name, f"{check.value:.3g}", f"{check.relation} {check.bound:.3g}", passed)
    console.print(checks)
    if not result.has_controls:
        console.print(
            "scores from a file come without controls, so no judge is accepted by them; name its run: --run RUN"
        )
    if result.corrected is not None:
        raw, moved = result.corrected.judge, result.corrected.corrected
        console.print(
            f"mean: {raw.mean:.1f} by the judge, {moved.mean:.1f} ({moved.low:.1f} to {moved.high:.1f}) where the"
            f" {moved.n} labels put it, if their items were drawn at random",
            soft_wrap=True,
        )
    failed = ", ".join(check.name for check in result.acceptance.checks if not check.passed)
    console.print(f"[bold red]rejected[/] by {failed}" if failed else "[bold green]accepted[/]", soft_wrap=True)


def _position_bias(match: Match, rate: WinRate) -> str:
    agree = f"the orders agree on {rate.consistency.mean:.0%} of the items ({rate.disagreements} ties by disagreement)"
    first = f"the answer shown first gets {rate.first_slot.mean:.0%}"
    # items with equal outcomes give no estimate of their spread
    shows = f"; {rate.rate.n} items show a win rate {rate.minimum_detectable:.0%} away from 50%"
    return f"{match.candidate} against {match.baseline}: {agree}, {first}{shows if rate.minimum_detectable > 0 else ''}"


def _interval(one: Interval) -> str:
    return "-" if math.isnan(one.mean) else f"{one.mean:.2f} ({one.low:.2f} to {one.high:.2f})"
