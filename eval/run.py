"""Items and responses -> a Report: overlap with the references, a judge's scores, or its comparisons."""

from __future__ import annotations

import importlib
import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from eval.asking import OnProgress, ask_all
from eval.digest import digest
from eval.errors import EvalDataError
from eval.exact import is_exact
from eval.judge.controls import collect_controls, collect_known_pairs, draw_controls, draw_known_pairs, mix_order
from eval.judge.summary import (
    build_item_row,
    build_judged_row,
    build_pair_row,
    compute_length_metrics,
    compute_pairwise_metrics,
    compute_pointwise_metrics,
)
from eval.overlap import measure_corpus_chrf, measure_rouge_l, measure_sentence_chrf
from eval.types import ControlCounts, Judge, PairJudge, Report, Sample

SEED = 123
"""The default seed of controls and resamples."""
DEFAULT_CONTROLS = ControlCounts()
"""The default number of controls of each kind in a judged run."""


def score_responses(samples: Sequence[Sample], responses: Sequence[str]) -> Report:
    """Compare responses with their references by libraries alone.

    Metrics: ``test/exact_match`` (share, 0..1), ``test/rouge_l`` (mean F1, 0..1), ``test/chrf`` (corpus, 0..100),
    ``test/empty`` (share of responses that are blank, 0..1).

    Raises EvalDataError for no items, another number of responses, or an id that comes twice.
    """
    _check_items(samples, responses)
    references = [sample.reference for sample in samples]
    exact = [is_exact(response, reference) for response, reference in zip(responses, references, strict=True)]
    rouge = measure_rouge_l(responses, references)
    chrf = measure_sentence_chrf(responses, references)
    n_empty = sum(not response.strip() for response in responses)
    rows = [
        {**build_item_row(sample, response), "exact_match": is_same, "rouge_l": one_rouge, "chrf": one_chrf}
        for sample, response, is_same, one_rouge, one_chrf in zip(samples, responses, exact, rouge, chrf, strict=True)
    ]
    metrics = {
        "test/exact_match": sum(exact) / len(samples),
        "test/rouge_l": math.fsum(rouge) / len(samples),
        "test/chrf": measure_corpus_chrf(responses, references),
        "test/empty": n_empty / len(samples),
    }
    return Report(metrics, rows, _describe_items(samples))


def judge_responses(
    samples: Sequence[Sample],
    responses: Sequence[str],
    *,
    judge: Judge,
    controls: ControlCounts = DEFAULT_CONTROLS,
    on_progress: OnProgress | None = None,
    concurrency: int = 1,
    seed: int = SEED,
) -> Report:
    """Let a judge score each response, and among them controls whose answer is known (``eval.judge.controls``).

    Metrics, all under ``judge/`` and of the items alone: ``mean`` with ``ci_low`` and ``ci_high`` (95% percentile
    bootstrap over the scored items; NaN where nothing was scored), ``scored``, ``unscored`` and ``unscored_<reason>``
    (counts; every reason is there), ``bound_low`` and ``bound_high`` (the mean of all items with the unscored ones at 0
    and at 100), ``weighted_mean`` with ``weighted_ci_low`` and ``weighted_ci_high`` (the probability-weighted score,
    over the ``weighted_scored`` items that have one; NaN if none has), ``valid_mass`` (mean over the items where it is
    known), ``length_controlled_mean`` with ``length_controlled_low`` and ``length_controlled_high`` (the mean where
    responses are as long as their references, ``eval.stats.length``), ``length_slope`` (points that go with length),
    ``length_extrapolated`` (1 if all responses are longer than their references, or all shorter), ``exact_share``
    (share given 100 by the short cut), ``cached`` and ``repaired`` (counts), ``seconds_per_item`` (mean over the items
    the judge decided), ``load_seconds`` (loading the model, not in the times of the items).

    Args:
        samples: the items; N of them.
        responses: N texts, in the same order.
        judge: scores one response.
        controls: how many of each kind.
        on_progress: called after each question, in this thread.
        concurrency: questions asked at once; more than the server's parallel slots only queue.
        seed: of the controls, their places among the items, and the bootstrap.

    Raises:
        EvalDataError: no items, another number of responses, or an id that comes twice.
        EvalConfigError: ``concurrency`` below 1.
        EvalError: what ends the run in the judge itself, such as JudgeChanged.
    """
    _check_items(samples, responses)
    n = len(samples)
    drawn = draw_controls(samples, responses, counts=controls, seed=seed)
    items = [partial(judge, sample, response) for sample, response in zip(samples, responses, strict=True)]
    known = [partial(judge, one.sample, one.response, shortcut=False, repeat=one.repeat) for one in drawn]
    order = mix_order(n, drawn, seed=seed)
    _load_statistics()
    verdicts = ask_all([*items, *known], order=order, concurrency=concurrency, on_progress=on_progress)
    rows = [build_judged_row(*one) for one in zip(samples, responses, verdicts[:n], strict=True)]
    return Report(
        metrics=compute_pointwise_metrics(verdicts[:n], seed=seed) | compute_length_metrics(rows, seed=seed),
        rows=rows,
        provenance={**_describe_run(samples, judge.describe(), seed=seed), "controls": asdict(controls)},
        controls=collect_controls(drawn, verdicts[n:], samples=samples, items=verdicts[:n]),
    )


def count_questions(
    samples: Sequence[Sample], responses: Sequence[str], *, controls: ControlCounts = DEFAULT_CONTROLS, seed: int = SEED
) -> int:
    """Verdicts that ``judge_responses`` takes for the same arguments: the items and the controls that they give."""
    return len(samples) + len(draw_controls(samples, responses, counts=controls, seed=seed))


def compare_responses(
    samples: Sequence[Sample],
    left: Sequence[str],
    right: Sequence[str],
    *,
    judge: PairJudge,
    n_known: int = 0,
    on_progress: OnProgress | None = None,
    concurrency: int = 1,
    seed: int = SEED,
) -> Report:
    """Let a judge compare two responses to each item, in both orders.

    Metrics, all under ``judge/``: ``win_rate`` with ``ci_low`` and ``ci_high`` (mean points of the left side over the
    scored items, 1 for a win and 0.5 for a tie, both orders averaged; 95% percentile bootstrap over the items),
    ``place_free`` and ``p_value`` (``eval.stats.WinRate``), ``left_wins``, ``right_wins``, ``ties``, ``identical``
    (ties without asking), ``disagreements`` (ties because the two orders say different things), ``consistency`` (share
    of the items put to the judge in which they say the same), ``first_slot`` and ``second_slot`` (how often each place
    was chosen, over both orders), ``bound_low`` and ``bound_high`` (the win rate with the games without a result lost
    and won), and as for ``judge_responses``: ``scored``, ``unscored``, ``unscored_<reason>``, ``cached``,
    ``seconds_per_item``, ``load_seconds``.

    ``n_known`` pairs whose winner is known, a reference against another item's, are mixed among the items; what the
    judge said of them is in ``Report.controls``, and ``eval.trust.validate_pairs`` weighs it. Other arguments and
    errors are those of ``judge_responses``.
    """
    _check_items(samples, left)
    _check_items(samples, right)
    n = len(samples)
    known = draw_known_pairs(samples, n=n_known, seed=seed)
    questions = [partial(judge, *one) for one in zip(samples, left, right, strict=True)]
    questions += [partial(judge, one.sample, one.sample.reference, one.response) for one in known]
    order = mix_order(n, known, seed=seed)
    _load_statistics()
    verdicts = ask_all(questions, order=order, concurrency=concurrency, on_progress=on_progress)
    rows = [build_pair_row(*one) for one in zip(samples, left, right, verdicts[:n], strict=True)]
    return Report(
        metrics=compute_pairwise_metrics(rows, verdicts[:n], seed=seed),
        rows=rows,
        provenance=_describe_run(samples, judge.describe(), seed=seed),
        controls=collect_known_pairs(known, verdicts[n:]) if known else None,
    )


def join_panel_scores(reports: Mapping[str, Report]) -> list[dict[str, Any]]:
    """One row per item with what every judge of a panel said of it: ``id``, ``scores`` and ``reasons`` by judge.

    Raises EvalDataError for no reports, or reports over other items or in another order.
    """
    ids = {name: [row["id"] for row in report.rows] for name, report in reports.items()}
    if not ids or any(found != next(iter(ids.values())) for found in ids.values()):
        raise EvalDataError(
            "expected every judge of a panel to have judged the same items in the same order, got others"
            f" ({', '.join(f'{name}: {len(found)}' for name, found in ids.items()) or 'no judges'});"
            " give each of them the same samples"
        )
    return [
        {
            "id": rows[0]["id"],
            "scores": {name: row["score"] for name, row in zip(reports, rows, strict=True)},
            "reasons": {name: row["reason"] for name, row in zip(reports, rows, strict=True)},
        }
        for rows in zip(*(report.rows for report in reports.values()), strict=True)
    ]


def _load_statistics() -> None:
    """Load what the intervals need while the judge is waited for; afterwards it would take as long as ten answers."""
    threading.Thread(target=importlib.import_module, args=("scipy.special",), name="load-statistics").start()


def _check_items(samples: Sequence[Sample], responses: Sequence[str]) -> None:
    if not samples:
        raise EvalDataError("expected at least one item to evaluate, got none; check the test split")
    if len(samples) != len(responses):
        raise EvalDataError(
            f"expected {len(samples)} responses, one for each item in the same order, got {len(responses)}; give an"
            " empty text where the model said nothing"
        )
    repeated = [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]
    if repeated:
        raise EvalDataError(
            f"expected unique ids, since they pair the items of two runs, got {repeated[0]!r} more than once"
            f" ({len(repeated)} such ids in all)"
        )


def _describe_items(samples: Sequence[Sample]) -> dict[str, Any]:
    texts = sorted([sample.id, sample.instruction, sample.input, sample.reference] for sample in samples)
    return {"n_items": len(samples), "items_digest": digest(texts)}


def _describe_run(samples: Sequence[Sample], description: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    instrument = dict(description)
    return {**_describe_items(samples), "judge": instrument, "comparable_group": digest(instrument), "seed": seed}
