"""The judge's part of an evaluation: each model's responses scored on the same items, the judge weighed by controls,
the models compared.

A judge that fails its controls is reported as not validated everywhere; its answers stay in the tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from eval.asking import OnProgress, RoundsProgress
from eval.errors import UnpairableError
from eval.judge import JudgeSession, JudgeSpec, Options, open_panel
from eval.run import count_questions, judge_responses
from eval.stats import (
    Comparison,
    ItemScores,
    LengthControlled,
    PanelAgreement,
    Validity,
    compare_family,
    fit_length_controlled_difference,
    measure_panel_agreement,
)
from eval.tournament import Tournament, count_comparisons, play
from eval.trust import validate_run
from eval.types import NO_CONTROLS, UNSCORED_REASONS, ControlCounts, Report, Sample
from eval.types import Progress as Asked
from flows.progress import SECONDS_LEFT
from flows.stages.context import Context
from flows.stages.evaluate.recipe import EvaluateStage
from gptcore.train import Progress

NOT_VALIDATED: Final = "judge not validated"
"""The state of a run whose judge failed its controls."""
MAIN: Final = "instruct"
"""The model that the headline is about; its metrics have no prefix, and the controls are made of its responses."""
FOLDER: Final = "judge"
"""Of the files and artifacts."""
STORE: Final = ("judge", "answers.jsonl")
"""Where in the cache all answers of judges are kept."""


@dataclass(frozen=True)
class Judged:
    """What one judge said of some models."""

    reports: dict[str, Report]
    """By model."""
    validity: dict[str, Validity]
    """By model: the same controls, each with the model's own unscored items."""
    comparisons: dict[str, Comparison]
    """By candidate, against ``baseline``; empty where nothing can be paired."""
    at_equal_length: dict[str, LengthControlled]
    """By candidate: the difference where its responses are as long as the baseline's."""
    baseline: str | None
    """What the others are compared with: the base model if it was judged; None for a single model."""


@dataclass(frozen=True)
class Sitting:
    """What came of all that was asked."""

    judges: dict[str, Judged]
    """By the judge's tag; the first of them decides."""
    agreement: dict[str, PanelAgreement]
    """By model, between the judges; empty for a single judge, or where two have scored no item in common."""
    pairs: Tournament | None
    """The models side by side, by the first judge; None if that was not asked for."""

    @property
    def main(self) -> Judged:
        """The judge that decides."""
        return next(iter(self.judges.values()))


def judge_specs(config: EvaluateStage, ollama_host: str) -> list[JudgeSpec]:
    """Which judges the settings name, and where they are; the one that decides first."""
    host = config.judge_url or (ollama_host if config.judge_backend == "ollama" else None)
    first = JudgeSpec(config.judge_model, host, config.judge_backend, options=Options(num_ctx=config.num_ctx))
    return [first, *(replace(first, model=name) for name in config.judge_panel)]


def judge_models(
    config: EvaluateStage, samples: Sequence[Sample], responses: Mapping[str, Sequence[str]], context: Context
) -> Sitting:
    """Have the models' responses judged, one judge and one model after the other, and compare them.

    Args:
        config: the judges and how they are asked.
        samples: the items; N of them.
        responses: by model, N texts; the main model's are among them.
        context: where answers are kept, and its ``on_progress``.

    Raises:
        EvalError: what ``eval.judge.open_panel`` and ``eval.run.judge_responses`` raise.
    """
    names = [MAIN, *(name for name in config.judge_models if name != MAIN and name in responses)]
    texts = {name: responses[name] for name in names}
    specs = judge_specs(config, context.ollama_host)
    side_by_side = config.pairwise and len(names) > 1
    total = len(specs) * (count_questions(samples, texts[MAIN]) + (len(names) - 1) * len(samples))
    total += count_comparisons(samples, len(names)) if side_by_side else 0
    on_questions = RoundsProgress(adapt_progress(context.on_progress), total=total)
    with open_panel(specs, store=context.places.cache.joinpath(*STORE)) as opened:
        judges = {
            one.model.model: _score(one, config, samples, texts, context=context, on_questions=on_questions)
            for one in opened
        }
        # the others are candidates against the first named, as where scores are compared
        ordered = dict(sorted(texts.items(), key=lambda one: one[0] != _baseline(names)))
        pairs = None
        if side_by_side:
            judge = opened[0].build_pairwise(shortcut=config.shortcut)
            pairs = play(samples, ordered, judge=judge, on_progress=on_questions, concurrency=config.concurrency)
    return Sitting(judges, _agreement(judges, seed=context.seed), pairs)


def adapt_progress(on_progress: Callable[[Progress], None]) -> OnProgress:
    """A callback for questions that calls ``on_progress`` of a stage."""

    def on_questions(asked: Asked) -> None:
        left = math.nan if asked.seconds_left is None else asked.seconds_left
        on_progress(Progress(asked.done, asked.total, {SECONDS_LEFT: left}))

    return on_questions


def _score(
    opened: JudgeSession,
    config: EvaluateStage,
    samples: Sequence[Sample],
    responses: Mapping[str, Sequence[str]],
    *,
    context: Context,
    on_questions: OnProgress,
) -> Judged:
    """What one judge says of each model."""
    judge = opened.build_pointwise(shortcut=config.shortcut)
    reports = {
        name: judge_responses(
            samples,
            texts,
            judge=judge,
            controls=ControlCounts() if name == MAIN else NO_CONTROLS,
            on_progress=on_questions,
            concurrency=config.concurrency,
        )
        for name, texts in responses.items()
    }
    controls = reports[MAIN].controls
    validity = {name: validate_run(report, controls=controls) for name, report in reports.items()}
    return _compare(reports, validity, seed=context.seed)


def _compare(reports: dict[str, Report], validity: dict[str, Validity], *, seed: int) -> Judged:
    if len(reports) < 2:
        return Judged(reports, validity, {}, {}, None)
    baseline = _baseline(reports)
    scores = {name: ItemScores.from_rows(report.rows) for name, report in reports.items()}
    candidates = {name: one for name, one in scores.items() if name != baseline}
    try:
        found = compare_family(scores[baseline], candidates, seed=seed)
    except UnpairableError:  # no item has two scores; the models' own counts of the unscored say why
        found = {}
    lengths = {name: at_equal_length(reports[baseline].rows, reports[name].rows, seed=seed) for name in found}
    return Judged(reports, validity, found, lengths, baseline)


def _baseline(names: Sequence[str] | Mapping[str, object]) -> str:
    return "base" if "base" in names else MAIN


def _agreement(judges: Mapping[str, Judged], *, seed: int) -> dict[str, PanelAgreement]:
    found: dict[str, PanelAgreement] = {}
    if len(judges) < 2:
        return found
    for name in next(iter(judges.values())).reports:
        panel = {tag: ItemScores.from_rows(one.reports[name].rows) for tag, one in judges.items()}
        try:
            found[name] = measure_panel_agreement(panel, seed=seed)
        except UnpairableError:  # two of them scored no item in common; each one's counts say why
            continue
    return found


def at_equal_length(
    baseline: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]], *, seed: int
) -> LengthControlled:
    """Candidate minus baseline where both responses have as many characters; rows of the same items.

    Raises UnpairableError if no item is scored in both.
    """
    before = {str(row["id"]): len(row["response"]) for row in baseline}
    longer = {str(row["id"]): float(len(row["response"]) - before[str(row["id"])]) for row in candidate}
    return fit_length_controlled_difference(
        ItemScores.from_rows(baseline), ItemScores.from_rows(candidate), longer, seed=seed
    )


def differences(baseline: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]) -> list[float]:
    """Candidate minus baseline for each item that has a score in both."""
    before = {row["id"]: row["score"] for row in baseline}
    pairs = ((before.get(row["id"]), row["score"]) for row in candidate)
    return [float(after - first) for first, after in pairs if first is not None and after is not None]


def count_unscored(counts: Mapping[str, Any]) -> dict[str, int]:
    """Of a model's figures, how many items have no score for each reason; reasons that did not come are left out."""
    found = {reason: int(counts.get(f"unscored_{reason}") or 0) for reason in UNSCORED_REASONS}
    return {reason: n for reason, n in found.items() if n}
