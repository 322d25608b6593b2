"""The judge's part of an evaluation: each model's responses scored on the same items, the judge weighed by controls,
the models compared.

A judge that fails its controls is told as such everywhere; what it said stays in the tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from eval.errors import UnpairableError
from eval.judge import ControlCounts, JudgeSpec, Options, open_judge
from eval.judge.prompt import packaged_prompts
from eval.judge.schema import POINTWISE
from eval.run import judge_responses
from eval.stats import Comparison, ItemScores, Validity, compare_family
from eval.stats.power import minimum_detectable
from eval.trust import RUN_CONTROLS, run_validity
from eval.types import UNSCORED_REASONS, Report, Sample
from flows.recipes import EvaluateStage
from flows.stages.context import Context
from gptcore.files import write_json, write_json_lines, write_text
from gptcore.train import Progress

NOT_VALIDATED: Final = "judge not validated"
"""The state of a run whose judge failed its controls."""
MAIN: Final = "instruct"
"""The model that the headline is about; its metrics have no prefix, and the controls are made of its responses."""
FOLDER: Final = "judge"
"""Of the files and artifacts."""
_NO_CONTROLS: Final = ControlCounts(0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Judged:
    """What the judge said of some models."""

    reports: dict[str, Report]
    """By model."""
    validity: dict[str, Validity]
    """By model: the same controls, each with the model's own unscored items."""
    comparisons: dict[str, Comparison]
    """By candidate, against ``baseline``; empty where nothing can be paired."""
    baseline: str | None
    """What the others are compared with: the base model if it was judged; None for a single model."""


def judge_spec(config: EvaluateStage, ollama_host: str) -> JudgeSpec:
    """Which judge the settings name, and where it is."""
    host = config.judge_url or (ollama_host if config.judge_backend == "ollama" else None)
    return JudgeSpec(config.judge_model, host, config.judge_backend, options=Options(num_ctx=config.num_ctx))


def judge_models(
    config: EvaluateStage, samples: Sequence[Sample], responses: Mapping[str, Sequence[str]], context: Context
) -> Judged:
    """Have the models' responses judged, one model after the other, and compare them.

    Args:
        config: the judge and how it is asked.
        samples: the items; N of them.
        responses: by model, N texts; the main model's are among them.
        context: where answers are kept, and whom progress is told.

    Raises:
        EvalError: what ``eval.judge.open_judge`` and ``eval.run.judge_responses`` raise.
    """
    store = context.places.cache / "judge" / "answers.jsonl"
    store.parent.mkdir(parents=True, exist_ok=True)
    reports: dict[str, Report] = {}
    names = [MAIN, *(name for name in config.judge_models if name != MAIN and name in responses)]
    with open_judge(judge_spec(config, context.ollama_host), store=store) as opened:
        judge, done = opened.pointwise(shortcut=config.shortcut), 0
        for left, name in zip(reversed(range(len(names))), names, strict=True):
            before, after = done, left * len(samples)

            def tell(progress: Any, before: int = before, after: int = after) -> None:
                context.on_progress(Progress(before + progress.done, before + progress.total + after, {}))

            reports[name] = judge_responses(
                samples,
                responses[name],
                judge=judge,
                controls=RUN_CONTROLS if name == MAIN else _NO_CONTROLS,
                on_progress=tell,
                concurrency=config.concurrency,
            )
            controls = reports[name].controls if name == MAIN else None
            done += len(samples) + (len(controls.rows) if controls else 0)
    controls = reports[MAIN].controls
    validity = {name: run_validity(report, controls=controls) for name, report in reports.items()}
    return _compared(reports, validity, seed=context.seed)


def _compared(reports: dict[str, Report], validity: dict[str, Validity], *, seed: int) -> Judged:
    scores = {name: ItemScores.from_rows(report.rows) for name, report in reports.items()}
    if len(scores) < 2:
        return Judged(reports, validity, {}, None)
    baseline = "base" if "base" in scores else MAIN
    candidates = {name: one for name, one in scores.items() if name != baseline}
    try:
        found = compare_family(scores[baseline], candidates, seed=seed)
    except UnpairableError:  # no item has two scores; the models' own counts of the unscored say why
        found = {}
    return Judged(reports, validity, found, baseline)


def metrics(judged: Judged) -> dict[str, float]:
    """Numbers for the tracker: the judge's, the controls', each model's and each comparison's; what is NaN is left out.

    ``judge/valid`` is 1 or 0. ``judge/minimum_detectable``: how far the mean of a second model, whose scores spread as
    much and go their own way, must be for 80% power at 5%; where two runs are compared, their own figure is smaller.
    """
    found: dict[str, float] = {}
    for name, report in judged.reports.items():
        prefix = "" if name == MAIN else f"{name}/"
        found |= {f"{prefix}{metric}": value for metric, value in report.metrics.items()}
        found[f"{prefix}judge/valid"] = float(judged.validity[name].valid)
    found["judge/minimum_detectable"] = _detectable(judged.reports[MAIN])
    for check in judged.validity[MAIN].checks:
        found[f"judge/control/{check.name}"] = check.value
    for name, comparison in judged.comparisons.items():
        numbers = comparison_numbers(comparison)
        found |= {f"judge/{name}_over_{judged.baseline}/{metric}": value for metric, value in numbers.items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def comparison_numbers(found: Comparison) -> dict[str, float]:
    """The figures of a comparison as metrics; ``verdict`` is 1 better, -1 worse, 0 not distinguishable."""
    return {
        "verdict": {"better": 1.0, "worse": -1.0, "not distinguishable": 0.0}[found.verdict],
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
    }


def facts(judged: Judged) -> dict[str, Any]:
    """What the summary, the report page and a later comparison need, as plain JSON values; None for what is NaN."""
    main, validity = judged.reports[MAIN], judged.validity[MAIN]
    own = {name.removeprefix("judge/"): value for name, value in main.metrics.items()}
    models = {
        name: {
            **{metric.removeprefix("judge/"): value for metric, value in report.metrics.items()},
            "valid": judged.validity[name].valid,
            "invalid_because": list(judged.validity[name].reasons),
        }
        for name, report in judged.reports.items()
    }
    found = {
        **own,
        "state": "scored" if validity.valid else NOT_VALIDATED,
        "reason": "; ".join(validity.reasons),
        "valid": validity.valid,
        "checks": [{**asdict(check), "passed": check.passed} for check in validity.checks],
        "minimum_detectable": _detectable(main),
        "models": models,
        "baseline": judged.baseline,
        "comparisons": {name: asdict(one) for name, one in judged.comparisons.items()},
        "provenance": main.provenance,
    }
    return {name: _plain(value) for name, value in found.items()}


def write_tables(judged: Judged, context: Context, *, summary: Mapping[str, Any]) -> None:
    """Every question with its whole prompt and raw answer, the controls, the rubric, the form and the summary."""
    folder = context.folder / FOLDER
    every = [{"model": name, **row} for name, report in judged.reports.items() for row in report.rows]
    write_json_lines(folder / "items.jsonl", every)
    controls = judged.reports[MAIN].controls
    write_json_lines(folder / "controls.jsonl", controls.rows if controls else [])
    prompts = packaged_prompts("pointwise")
    for part in ("system", "user", "repair"):
        write_text(folder / f"rubric_{part}.md", f"{getattr(prompts, part)}\n")
    write_json(folder / "schema.json", dict(POINTWISE.schema))
    write_json(folder / "report.json", dict(summary))
    context.log.log_artifact(folder)


def params(judged: Judged) -> dict[str, Any]:
    """Everything that can change a score, to be logged under ``judge``: model, digests, versions, options, items."""
    provenance = judged.reports[MAIN].provenance
    return {**provenance["judge"], **{name: value for name, value in provenance.items() if name != "judge"}}


def tags(judged: Judged) -> dict[str, str]:
    """Tags by which runs of one instrument, and those that may be believed, are found."""
    provenance = judged.reports[MAIN].provenance
    return {
        "gptworks.judge.valid": str(judged.validity[MAIN].valid).lower(),
        "gptworks.judge.group": provenance["comparable_group"],
        "gptworks.judge.items": provenance["items_digest"],
        **{
            f"gptworks.judge.{name}_over_{judged.baseline}": comparison.verdict
            for name, comparison in judged.comparisons.items()
        },
    }


def differences(baseline: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]) -> list[float]:
    """Candidate minus baseline for each item that has a score in both."""
    before = {row["id"]: row["score"] for row in baseline}
    pairs = ((before.get(row["id"]), row["score"]) for row in candidate)
    return [float(after - first) for first, after in pairs if first is not None and after is not None]


def unscored_reasons(counts: Mapping[str, Any]) -> dict[str, int]:
    """Of a model's figures, how many items have no score for each reason; reasons that did not come are left out."""
    found = {reason: int(counts.get(f"unscored_{reason}") or 0) for reason in UNSCORED_REASONS}
    return {reason: n for reason, n in found.items() if n}


def _detectable(report: Report) -> float:
    scored = ItemScores.from_rows(report.rows).scored()
    return math.sqrt(2) * minimum_detectable(scored)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
