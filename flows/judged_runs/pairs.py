"""Responses of tracked runs side by side: a judge is asked anew, in both orders, and the result is tracked.

Only responses and items are taken from the runs, so that runs that were scored by different judges can be compared as
well. The answers go into the same store as all others: what was asked once is not asked again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from eval.digest import digest
from eval.errors import EvalConfigError, IncomparableError
from eval.judge import JudgeSession, JudgeSpec, Options, open_judge
from eval.tournament import Tournament, play
from eval.types import Sample
from flows.judged_runs.runs import COMPARED, JudgedRun, validity_tags
from flows.settings import Settings
from flows.stages.judge.numbers import finite, match_rows, safe_name, tournament_facts, tournament_numbers
from flows.stages.judge.sitting import STORE, adapt_progress
from flows.tracking.runs import PREFIX, stage_run
from gptcore.train import Progress

RANKED = "judge-rank"
"""The experiment of rankings of more than two."""


@dataclass(frozen=True)
class Asking:
    """Who is asked, and how."""

    model: str | None = None
    """The judge; by default the one that scored the last of the runs, and no other weights behind its name."""
    url: str | None = None
    """Where it is; by default as for evaluations."""
    concurrency: int = 1
    """Items compared at once."""
    seed: int = 1
    """Of the resamples."""


@dataclass(frozen=True)
class SideBySide:
    """Runs that were compared side by side."""

    sides: dict[str, JudgedRun]
    """By the name in the tournament: model and run."""
    tournament: Tournament
    unsound: list[str]
    """Why the judge may not be believed, by the controls of its scores."""
    run_id: str
    """The tracked run of the result."""

    @property
    def invalid_because(self) -> list[str]:
        """Why no verdict may be taken from it; empty if one may."""
        return [*self.tournament.validity.reasons, *self.unsound]


def side_by_side(
    settings: Settings, runs: Sequence[JudgedRun], *, asking: Asking, on_progress: Callable[[Progress], None]
) -> SideBySide:
    """Have each two of at least two runs compared item by item and keep the result as a tracked run.

    The first is the baseline of all others.

    Raises:
        IncomparableError: the runs were evaluated on different items.
        EvalConfigError: fewer than two runs, or one that comes twice.
        EvalError: what ``eval.judge.open_judge`` and ``eval.tournament.play`` raise.
        TrackingError: the tracking store cannot be reached.
    """
    sides = _name_sides(runs)
    samples, responses = _texts(sides)
    spec = _spec(settings, runs[-1], asking)
    with open_judge(spec, store=settings.cache.joinpath(*STORE)) as opened:
        found = play(
            samples,
            responses,
            judge=opened.build_pairwise(),
            on_progress=adapt_progress(on_progress),
            concurrency=asking.concurrency,
            seed=asking.seed,
        )
        unsound = _unsound(runs, opened)
    result = SideBySide(sides, found, unsound, "")
    return replace(result, run_id=_log(settings, result, seed=asking.seed))


def _name_sides(runs: Sequence[JudgedRun]) -> dict[str, JudgedRun]:
    named = {f"{run.model} of {run.run_id[:8]}": run for run in runs}
    if len(named) < max(2, len(runs)):
        names = ", ".join(f"{run.model} of {run.run_id[:8]}" for run in runs)
        raise EvalConfigError(f"expected at least two different runs to compare, got {names}")
    return named


def _texts(sides: Mapping[str, JudgedRun]) -> tuple[list[Sample], dict[str, list[str]]]:
    first, *others = sides.values()
    for other in others:
        one, two = (run.facts["provenance"]["items_digest"] for run in (first, other))
        if one != two:
            raise IncomparableError(
                f"runs {first.run_id} and {other.run_id} were evaluated on different items (items_digest {one[:12]}"
                f" against {two[:12]}); evaluate both on the same test split"
            )
    samples = [Sample(str(row["id"]), row["instruction"], row["input"], row["reference"]) for row in first.rows]
    by_id = {name: {str(row["id"]): str(row["response"]) for row in run.rows} for name, run in sides.items()}
    return samples, {name: [texts[sample.id] for sample in samples] for name, texts in by_id.items()}


def _spec(settings: Settings, run: JudgedRun, asking: Asking) -> JudgeSpec:
    """The judge that is named, or else that of the run; with the run's options in both cases."""
    client = run.facts["provenance"]["judge"]["client"]
    backend: Literal["ollama", "openai"] = "openai" if client["backend"] == "openai" else "ollama"
    host = asking.url or (settings.ollama_host if backend == "ollama" else client["url"])
    model = asking.model or f"{client['model']}@{client['model_digest'][:12]}"
    return JudgeSpec(model, host, backend, options=Options(**client["options"]))


def _unsound(runs: Sequence[JudgedRun], opened: JudgeSession) -> list[str]:
    """What the controls of scoring say of this judge, in those of the runs that it scored."""
    digests = {run.run_id: run.facts["provenance"]["judge"]["client"]["model_digest"] for run in runs}
    own = {run.run_id: run for run in runs if digests[run.run_id] == opened.model.digest}
    if not own:
        name = f"{opened.model.model} ({opened.model.digest[:12]})"
        return [f"none of the runs was scored by {name}, so that no controls say what it is worth"]
    return [f"{run_id[:8]}: {reason}" for run_id, run in own.items() for reason in run.invalid_because]


def _log(settings: Settings, result: SideBySide, *, seed: int) -> str:
    found, runs = result.tournament, list(result.sides.values())
    provenance = found.matches[0].report.provenance
    params: dict[str, Any] = {
        "sides": {str(i): {"run": run.run_id, "model": run.model} for i, run in enumerate(runs)},
        "pairwise": True,
        "judge": provenance["judge"],
        "seed": seed,
    }
    tags = {
        **validity_tags(result.invalid_because),
        f"{PREFIX}.judge.group": provenance["comparable_group"],
        f"{PREFIX}.judge.items": provenance["items_digest"],
    }
    for match in found.matches:
        sides = f"{safe_name(match.candidate)}_over_{safe_name(match.baseline)}"
        tags[f"{PREFIX}.judge.verdict.{sides}"] = match.verdict
    if len(runs) == 2:
        tags |= {f"{PREFIX}.judge.verdict": found.matches[0].verdict}
        tags |= {f"{PREFIX}.run.baseline": runs[0].run_id, f"{PREFIX}.run.candidate": runs[1].run_id}
    with stage_run(
        settings,
        stage=COMPARED if len(runs) == 2 else RANKED,
        name=f"{' against '.join(reversed(list(result.sides)))}, side by side",
        key=digest(params)[:16],
        params=params,
        tags=tags,
        parent_run_id=runs[-1].run_id if len(runs) == 2 else None,
    ) as log:
        numbers = tournament_numbers(found, unsound=result.unsound)
        log.log_metrics(finite({f"judge/{name}": value for name, value in numbers.items()}))
        log.log_text(json.dumps(tournament_facts(found, unsound=result.unsound), indent=1), "comparison.json")
        log.log_table(match_rows(found), "items.json")
        return log.run_id
