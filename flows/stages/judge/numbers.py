"""What was found about judged models: metrics for the tracker, plain JSON values for the page and for files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from eval.stats import Comparison, Interval, LengthControlled, PanelAgreement
from eval.stats.two_runs import VerdictWord
from eval.tournament import Match, Tournament

_WORDS: Mapping[VerdictWord, float] = {"better": 1.0, "worse": -1.0, "not distinguishable": 0.0}


def finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Those that a tracker takes: what is NaN was not measured, what is infinite has no bound."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def plain(value: Any) -> Any:
    """As JSON values; None for a number that is not finite."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def safe_name(text: str) -> str:
    """A model's tag as a part of a metric's or parameter's name."""
    return re.sub(r"[^\w.-]", "_", text)


def comparison_numbers(found: Comparison, at_equal_length: LengthControlled | None) -> dict[str, float]:
    """The figures of a comparison as metrics; ``verdict`` is 1 better, -1 worse, 0 not distinguishable."""
    return {
        "verdict": _WORDS[found.verdict],
        "difference": found.paired.difference,
        "ci_low": found.paired.low,
        "ci_high": found.paired.high,
        "p_value": found.p_adjusted,
        "minimum_detectable": found.paired.minimum_detectable,
        "pairs": float(found.paired.n),
        "bound_low": found.bound_low,
        "bound_high": found.bound_high,
        "wilcoxon_p": found.wilcoxon_p,
        "mcnemar_p": found.passes.p_value,
        **_length_numbers(at_equal_length),
    }


def match_numbers(match: Match) -> dict[str, float]:
    """The figures of a match as metrics, those of ``eval.run.compare_responses`` and what came of weighing them."""
    numbers = {name.removeprefix("judge/"): value for name, value in match.report.metrics.items()}
    numbers |= {"verdict": _WORDS[match.verdict], "p_value": match.p_adjusted, **_length_numbers(match.at_equal_length)}
    if match.rate is not None:
        numbers["minimum_detectable"] = match.rate.minimum_detectable
        numbers |= _interval("first_slot_rate", match.rate.first_slot)
        numbers["slot_p"] = match.rate.slot_p
    return numbers


def tournament_numbers(found: Tournament, *, unsound: Sequence[str]) -> dict[str, float]:
    """Each match, the checks of the judge, and each model's strength, as metrics; ``valid`` without reasons not to be.

    ``unsound`` are reasons from elsewhere not to believe the judge, as from the controls of its scores.
    """
    numbers = {"valid": float(found.validity.valid and not unsound)}
    numbers |= {f"control/{check.name}": check.value for check in found.validity.checks}
    for match in found.matches:
        prefix = f"{safe_name(match.candidate)}_over_{safe_name(match.baseline)}"
        numbers |= {f"{prefix}/{name}": value for name, value in match_numbers(match).items()}
    for name, strength in (found.strengths.strengths if found.strengths else {}).items():
        numbers |= _interval(f"strength/{safe_name(name)}", strength)
    return numbers


def panel_numbers(found: PanelAgreement) -> dict[str, float]:
    """How far judges agree, as metrics."""
    numbers = {**_interval("alpha", found.alpha), "mean_spearman": found.mean_spearman}
    for (one, other), report in found.pairwise.items():
        for name, figure in (("spearman", report.spearman), ("kappa", report.kappa), ("pass_kappa", report.pass_kappa)):
            numbers |= _interval(f"{safe_name(one)}_and_{safe_name(other)}/{name}", figure)
    return numbers


def panel_facts(found: PanelAgreement) -> dict[str, Any]:
    """How far judges agree, as JSON values."""
    pairs = [{"judges": list(names), **asdict(report)} for names, report in found.pairwise.items()]
    facts = {"alpha": asdict(found.alpha), "mean_spearman": found.mean_spearman, "pairs": pairs}
    return {name: plain(value) for name, value in facts.items()}


def tournament_facts(found: Tournament, *, unsound: Sequence[str]) -> dict[str, Any]:
    """All matches and strengths but for their rows, as JSON values; ``unsound`` as for ``tournament_numbers``."""
    facts = {
        "valid": found.validity.valid and not unsound,
        "invalid_because": [*found.validity.reasons, *unsound],
        "checks": [{**asdict(check), "passed": check.passed} for check in found.validity.checks],
        "matches": [
            {
                "candidate": match.candidate,
                "baseline": match.baseline,
                "verdict": match.verdict,
                "figures": match_numbers(match),
                "rate": None if match.rate is None else asdict(match.rate),
                "provenance": match.report.provenance,
            }
            for match in found.matches
        ],
        "strengths": None if found.strengths is None else asdict(found.strengths),
        "no_strengths": found.no_strengths,
    }
    return {name: plain(value) for name, value in facts.items()}


def match_rows(found: Tournament) -> list[dict[str, Any]]:
    """Each comparison with both prompts and raw answers, the known pairs among them."""
    return [
        {"candidate": match.candidate, "baseline": match.baseline, **row}
        for match in found.matches
        for row in [*match.report.rows, *(match.report.controls.rows if match.report.controls else ())]
    ]


def _length_numbers(found: LengthControlled | None) -> dict[str, float]:
    if found is None:
        return {}
    return {
        **_interval("length_controlled", found.controlled),
        "length_slope": found.slope.mean,
        "length_extrapolated": float(found.is_extrapolated),
    }


def _interval(name: str, found: Interval) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
