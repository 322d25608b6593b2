"""The gate's decision: a pure function of two models' evidence and a policy.

All demands must be met, so none needs a correction for their number (the intersection-union principle: Berger 1982,
"Multiparameter hypothesis testing and acceptance sampling", https://doi.org/10.1080/00401706.1982.10487790). Intervals
are paired bootstrap intervals over the items (``eval.stats.two_runs``):

- superiority: the whole interval of the primary measure lies above 0;
- non-inferiority: the whole interval of a guardrail lies above minus its margin (for example Piaggio et al. 2012,
  https://doi.org/10.1001/jama.2012.87802).

An interval on the wrong side refuses, one that reaches over the bound decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from eval.errors import IncomparableError
from eval.stats import PairedDifference, find_provenance_differences, measure_paired_difference
from eval.types import MAX_SCORE, MIN_SCORE
from flows.gate.evidence import Evidence, Variant
from flows.gate.policy import LOWER_IS_BETTER, UNITS, Budget, GatePolicy, Measure

Verdict = Literal["promote", "reject", "inconclusive", "needs_approval"]
Kind = Literal["floor", "guardrail", "primary", "judge", "budget"]
Outcome = Literal["passed", "failed", "undecided", "shown"]
Sides = tuple[Evidence, Evidence]
"""Challenger and champion."""


@dataclass(frozen=True)
class Row:
    """One line of the gate's table. Fields are None where they mean nothing."""

    kind: Kind
    name: str
    unit: str
    challenger: float | None
    champion: float | None
    difference: float | None
    """Challenger against champion, more being better."""
    low: float | None
    high: float | None
    demand: str
    """What is asked, in words."""
    outcome: Outcome
    note: str = ""
    n: int | None = None
    """Pairs of items."""


@dataclass(frozen=True)
class Decision:
    """The outcome of a gate."""

    verdict: Verdict
    reason: str
    """In one sentence."""
    rows: tuple[Row, ...]
    eval_key: str
    """Of both sides."""


def _check_same_evaluation(challenger: Evidence, champion: Evidence) -> None:
    found = find_provenance_differences(champion.instrument, challenger.instrument, ignore=())
    if found:
        listed = "\n".join(f"  {one}" for one in found)
        raise IncomparableError(
            f"champion and challenger were measured under different evaluation keys ({champion.key}, {challenger.key})"
            f"\n{listed}\nmeasure the champion again under the challenger's"
        )


def decide(challenger: Evidence, champion: Evidence | None, *, policy: GatePolicy) -> Decision:
    """The verdict on a challenger; where there is no champion, floors and budgets alone decide.

    Raises:
        IncomparableError: items, judge, prompts or decoding of the two differ; each difference is named.
    """
    rows = [*_floors(challenger, policy), *_budgets(challenger, champion, policy)]
    if champion is None:
        return _decision(rows, challenger.key, policy, won="the first model: it meets the floors and budgets")
    _check_same_evaluation(challenger, champion)
    both = set(challenger.values) & set(champion.values)
    primary = policy.choose_primary(both, judged=challenger.judged and champion.judged)
    rows = [
        *_primary((challenger, champion), primary, policy),
        *_judge((challenger, champion), primary, policy),
        *_guardrails((challenger, champion), primary, policy),
        *rows,
    ]
    return _decision(rows, challenger.key, policy, won=_describe_win(rows))


def _decision(rows: list[Row], key: str, policy: GatePolicy, *, won: str) -> Decision:
    failed = [row for row in rows if row.outcome == "failed"]
    undecided = [row for row in rows if row.outcome == "undecided"]
    if failed:
        return Decision("reject", _because(failed), tuple(rows), key)
    if undecided:
        return Decision("inconclusive", _because(undecided), tuple(rows), key)
    if policy.require_approval:
        return Decision("needs_approval", f"{won}; the policy asks for a person's approval", tuple(rows), key)
    return Decision("promote", won, tuple(rows), key)


def _because(rows: list[Row]) -> str:
    return "; ".join(f"{row.kind} {row.name}: {row.note or row.demand}" for row in rows)


def _describe_win(rows: list[Row]) -> str:
    best = next((row for row in rows if row.kind == "primary"), None)
    if best is None or best.difference is None or best.low is None:
        return "every demand is met"
    return f"{best.name} is better by {best.difference:.3g} {best.unit} (at least {best.low:.3g})"


def _floors(challenger: Evidence, policy: GatePolicy) -> Iterator[Row]:
    for name, bound in policy.floors.items():
        if name not in challenger.values:
            continue
        mean = challenger.mean(name)
        lower = name in LOWER_IS_BETTER
        word = "at most" if lower else "at least"
        outcome: Outcome = "passed" if (mean <= bound if lower else mean >= bound) else "failed"
        note = ""
        if name == "judge" and challenger.judge_invalid:
            outcome, note = "undecided", "the judge is not validated"
        elif outcome == "failed":
            note = f"expected {word} {bound:.3g} {UNITS[name]}, got {mean:.3g}"
        yield Row("floor", name, UNITS[name], mean, None, None, None, None, f"{word} {bound:.3g}", outcome, note)


def _primary(sides: Sides, primary: Measure | None, policy: GatePolicy) -> Iterator[Row]:
    challenger, champion = sides
    if primary is None or primary not in challenger.values or primary not in champion.values:
        name = primary or policy.primary
        note = "it was not measured on both models"
        yield Row("primary", name, "", None, None, None, None, None, "better than the champion", "undecided", note)
        return
    demand, found = "better: interval above 0", _measure_difference(sides, primary, policy)
    n = found.n if found else 0
    if found is None or n < policy.min_items:
        note = f"expected at least {policy.min_items} pairs of items, got {n}"
        yield _comparison("primary", primary, sides, found, demand, "undecided", note)
        return
    outcome, note = _superior(found, policy.margins.get(primary, 0.0), UNITS[primary])
    if outcome == "passed" and (lowest := _lowest(sides, primary)) <= 0:
        outcome, note = "undecided", f"the unscored items alone could make it {lowest:+.3g} {UNITS[primary]}"
    yield _comparison("primary", primary, sides, found, demand, outcome, note)


def _superior(found: PairedDifference, margin: float, unit: str) -> tuple[Outcome, str]:
    if found.low > 0:
        return "passed", ""
    if found.high < 0:
        return "failed", f"worse by {-found.difference:.3g} {unit} ({found.low:.3g} to {found.high:.3g})"
    if max(-found.low, found.high) <= margin:
        return "failed", f"no better: within {margin:.3g} {unit} of the champion, one way or the other"
    return "undecided", (
        f"{found.difference:+.3g} {unit} ({found.low:.3g} to {found.high:.3g}) is not statistically significant; "
        f"{found.n} items detect a difference of {found.minimum_detectable:.3g}"
    )


def _lowest(sides: Sides, name: Measure) -> float:
    """The mean difference with every unscored item of the judge against the challenger; elsewhere all have a value."""
    challenger, champion = (side.values[name] for side in sides)
    items = sorted(set(challenger) & set(champion))
    if name != "judge":
        return math.inf
    worst = [_or(challenger[item], MIN_SCORE) - _or(champion[item], MAX_SCORE) for item in items]
    return math.fsum(worst) / len(worst)


def _or(value: float | None, instead: float) -> float:
    return instead if value is None else value


def _judge(sides: Sides, primary: Measure | None, policy: GatePolicy) -> Iterator[Row]:
    """A judge that failed its controls decides nothing; where the policy does not ask for it, its state is shown."""
    if not all(side.judged for side in sides):
        return
    asked = primary == "judge" or "judge" in policy.margins or "judge" in policy.floors
    invalid = [reason for side in sides for reason in side.judge_invalid]
    outcome: Outcome = "passed" if not invalid else ("undecided" if asked else "shown")
    note = "; ".join(dict.fromkeys(invalid))
    yield Row("judge", "validity", "", None, None, None, None, None, "its controls pass on both sides", outcome, note)


def _guardrails(sides: Sides, primary: Measure | None, policy: GatePolicy) -> Iterator[Row]:
    challenger, champion = sides
    for name in UNITS:
        there = (name in challenger.values, name in champion.values)
        if name == primary or not any(there):
            continue
        if all(there):
            yield _guardrail(name, sides, policy)
        elif there[1]:
            yield _one_sided(name, sides, "failed", "measured on the champion, not on the challenger")
        else:
            yield _one_sided(name, sides, "shown", "not measured on the champion")


def _one_sided(name: Measure, sides: Sides, outcome: Outcome, note: str) -> Row:
    ours, theirs = (side.mean(name) if name in side.values else None for side in sides)
    return Row("guardrail", name, UNITS[name], ours, theirs, None, None, None, "measured on both models", outcome, note)


def _guardrail(name: Measure, sides: Sides, policy: GatePolicy) -> Row:
    found, margin, unit = _measure_difference(sides, name, policy), policy.margins.get(name), UNITS[name]
    if margin is None:
        return _comparison("guardrail", name, sides, found, "none", "shown", "")
    demand = f"not worse by {margin:.3g}"
    if name == "judge" and any(side.judge_invalid for side in sides):
        return _comparison("guardrail", name, sides, found, demand, "undecided", "the judge is not validated")
    if found is None or math.isnan(found.low):
        return _comparison("guardrail", name, sides, found, demand, "undecided", f"{found.n if found else 0} pairs")
    if found.low > -margin or found.low == found.high == 0:
        return _comparison("guardrail", name, sides, found, demand, "passed", "")
    interval = f"({found.low:.3g} to {found.high:.3g})"
    if found.high < -margin:
        note = f"worse by {-found.difference:.3g} {unit} {interval}"
        return _comparison("guardrail", name, sides, found, demand, "failed", note)
    note = f"it may be worse by more than {margin:.3g} {unit} {interval}"
    return _comparison("guardrail", name, sides, found, demand, "undecided", note)


def _comparison(
    kind: Kind, name: Measure, sides: Sides, found: PairedDifference | None, demand: str, outcome: Outcome, note: str
) -> Row:
    ours, theirs = (side.mean(name) for side in sides)
    row = Row(kind, name, UNITS[name], ours, theirs, None, None, None, demand, outcome, note, 0)
    if found is None:
        return row
    return replace(row, difference=found.difference, low=found.low, high=found.high, n=found.n)


def _measure_difference(sides: Sides, name: Measure, policy: GatePolicy) -> PairedDifference | None:
    """More being better; None without a pair. Items are taken in the order of their ids, so no order is an input."""
    challenger, champion = (side.values[name] for side in sides)
    pairs = [(champion[item], challenger[item]) for item in sorted(champion) if item in challenger]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not known:
        return None
    sign = -1.0 if name in LOWER_IS_BETTER else 1.0
    return measure_paired_difference(
        [sign * a for a, _ in known], [sign * b for _, b in known], seed=policy.seed, confidence=policy.confidence
    )


def _budgets(challenger: Evidence, champion: Evidence | None, policy: GatePolicy) -> Iterator[Row]:
    there = {variant.name: variant for variant in challenger.variants}
    before = {variant.name: variant for variant in champion.variants} if champion else {}
    for name, budget in policy.budgets.items():
        if not challenger.variants:
            continue  # a chain that compresses nothing has nothing to keep to
        if name not in there:
            note = f"expected one of the variants {', '.join(there)}, got {name}"
            yield Row("budget", name, "", None, None, None, None, None, "exists", "failed", note)
            continue
        yield from _budget(there[name], before.get(name), budget)


def _budget(variant: Variant, before: Variant | None, budget: Budget) -> Iterator[Row]:
    demands: tuple[tuple[str, str, str, float | None, bool], ...] = (
        ("size", "n_bytes", "bytes", budget.max_bytes, True),
        ("share of fp32", "share", "share", budget.max_share, True),
        ("loss of quality", "increase", "share", budget.max_increase, True),
        ("speed", "tokens_per_second", "tokens/s", budget.min_tokens_per_second, False),
    )
    for what, field, unit, bound, is_most in demands:
        if bound is None:
            continue
        value = float(getattr(variant, field))
        earlier = None if before is None else float(getattr(before, field))
        met = value <= bound if is_most else value >= bound
        demand = f"at {'most' if is_most else 'least'} {bound:,.4g}"
        note = "" if met else f"expected {demand} {unit}, got {value:,.4g}"
        outcome: Outcome = "passed" if met else "failed"
        yield Row("budget", f"{variant.name} {what}", unit, value, earlier, None, None, None, demand, outcome, note)
