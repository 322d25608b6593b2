"""Items and responses -> a Report: overlap with the references, or a judge's scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from eval.digest import digest
from eval.errors import EvalConfigError, EvalDataError
from eval.exact import is_exact
from eval.overlap import corpus_chrf, rouge_l, sentence_chrf
from eval.stats import mean_interval
from eval.types import MAX_SCORE, MIN_SCORE, UNSCORED_REASONS, Judge, Judged, Report, Sample, Verdict

_SEED = 123


def score_responses(samples: Sequence[Sample], responses: Sequence[str]) -> Report:
    """Compare responses with their references by libraries alone.

    Metrics: ``test/exact_match`` (share, 0..1), ``test/rouge_l`` (mean F1, 0..1), ``test/chrf`` (corpus, 0..100),
    ``test/empty`` (share of responses that are blank, 0..1).

    Raises EvalDataError for no items, another number of responses, or an id that comes twice.
    """
    _check(samples, responses)
    references = [sample.reference for sample in samples]
    exact = [is_exact(response, reference) for response, reference in zip(responses, references, strict=True)]
    rouge = rouge_l(responses, references)
    chrf = sentence_chrf(responses, references)
    n_empty = sum(not response.strip() for response in responses)
    rows = [
        {**_row(sample, response), "exact_match": is_same, "rouge_l": one_rouge, "chrf": one_chrf}
        for sample, response, is_same, one_rouge, one_chrf in zip(samples, responses, exact, rouge, chrf, strict=True)
    ]
    metrics = {
        "test/exact_match": sum(exact) / len(samples),
        "test/rouge_l": math.fsum(rouge) / len(samples),
        "test/chrf": corpus_chrf(responses, references),
        "test/empty": n_empty / len(samples),
    }
    return Report(metrics, rows, _items(samples))


def judge_responses(
    samples: Sequence[Sample],
    responses: Sequence[str],
    *,
    judge: Judge,
    on_progress: Callable[[int, int], None] | None = None,
    concurrency: int = 1,
    seed: int = _SEED,
) -> Report:
    """Let a judge score each response.

    Metrics, all under ``judge/``: ``mean`` with ``ci_low`` and ``ci_high`` (95% percentile bootstrap over the scored
    items; NaN where nothing was scored), ``scored``, ``unscored`` and ``unscored_<reason>`` (counts; every reason is
    there), ``bound_low`` and ``bound_high`` (the mean of all items with the unscored ones at 0 and at 100),
    ``exact_share`` (share given 100 by the short cut), ``cached`` and ``repaired`` (counts), ``seconds_per_item`` (mean
    over the items put to the judge now, not read from its store; 0 if none was).

    Args:
        samples: the items; N of them.
        responses: N texts, in the same order.
        judge: scores one response.
        on_progress: called with (items done, items in all) after each item, in this thread.
        concurrency: items judged at once; more than the server's parallel slots only queue.
        seed: of the bootstrap.

    Raises:
        EvalDataError: no items, another number of responses, or an id that comes twice.
        EvalConfigError: ``concurrency`` below 1.
    """
    _check(samples, responses)
    if concurrency < 1:
        raise EvalConfigError(f"concurrency is {concurrency}; it must be at least 1")
    verdicts = _verdicts(samples, responses, judge=judge, on_progress=on_progress, concurrency=concurrency)
    judged = [Judged(*one) for one in zip(samples, responses, verdicts, strict=True)]
    instrument = dict(judge.describe())
    provenance = {**_items(samples), "judge": instrument, "comparable_group": digest(instrument), "seed": seed}
    return Report(_judge_metrics(verdicts, seed=seed), [_judged_row(one) for one in judged], provenance)


def _verdicts(
    samples: Sequence[Sample],
    responses: Sequence[str],
    *,
    judge: Judge,
    on_progress: Callable[[int, int], None] | None,
    concurrency: int,
) -> list[Verdict]:
    verdicts: dict[int, Verdict] = {}
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="judge")
    try:
        asked = {
            pool.submit(judge, sample, response): index
            for index, (sample, response) in enumerate(zip(samples, responses, strict=True))
        }
        for finished in as_completed(asked):
            verdicts[asked[finished]] = finished.result()
            if on_progress is not None:
                on_progress(len(verdicts), len(samples))
    finally:
        # After an error or Ctrl-C the items that wait are not asked; those under way end by their own deadlines.
        pool.shutdown(wait=True, cancel_futures=True)
    return [verdicts[index] for index in range(len(samples))]


def _judge_metrics(verdicts: Sequence[Verdict], *, seed: int) -> dict[str, float]:
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.reason is not None)
    asked = [one.seconds for one in verdicts if one.source == "judge" and "cached" not in one.flags]
    n, n_unscored = len(verdicts), len(verdicts) - len(scores)
    interval = mean_interval(scores, seed=seed)
    return {
        "judge/mean": interval.mean,
        "judge/ci_low": interval.low,
        "judge/ci_high": interval.high,
        "judge/scored": float(len(scores)),
        "judge/unscored": float(n_unscored),
        **{f"judge/unscored_{reason}": float(reasons[reason]) for reason in UNSCORED_REASONS},
        "judge/bound_low": (sum(scores) + MIN_SCORE * n_unscored) / n,
        "judge/bound_high": (sum(scores) + MAX_SCORE * n_unscored) / n,
        "judge/exact_share": sum(verdict.source == "exact_match" for verdict in verdicts) / n,
        "judge/cached": float(sum("cached" in verdict.flags for verdict in verdicts)),
        "judge/repaired": float(sum("repaired" in verdict.flags for verdict in verdicts)),
        "judge/seconds_per_item": math.fsum(asked) / len(asked) if asked else 0.0,
    }


def _check(samples: Sequence[Sample], responses: Sequence[str]) -> None:
    if not samples:
        raise EvalDataError("there are no items to evaluate; check the test split")
    if len(samples) != len(responses):
        raise EvalDataError(
            f"{len(samples)} items but {len(responses)} responses; every item needs one response, in the same order"
            " (an empty text where the model said nothing)"
        )
    repeated = [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]
    if repeated:
        raise EvalDataError(
            f"id {repeated[0]!r} comes more than once ({len(repeated)} such ids in all); ids must be unique, since they"
            " pair the items of two runs"
        )


def _items(samples: Sequence[Sample]) -> dict[str, Any]:
    texts = sorted([sample.id, sample.instruction, sample.input, sample.reference] for sample in samples)
    return {"n_items": len(samples), "items_digest": digest(texts)}


def _row(sample: Sample, response: str) -> dict[str, Any]:
    return {
        "id": sample.id,
        "instruction": sample.instruction,
        "input": sample.input,
        "reference": sample.reference,
        "response": response,
    }


def _judged_row(judged: Judged) -> dict[str, Any]:
    verdict = judged.verdict
    return {
        **_row(judged.sample, judged.response),
        "score": verdict.score,
        "rationale": verdict.rationale,
        "reason": verdict.reason,
        "detail": verdict.detail,
        "source": verdict.source,
        "flags": list(verdict.flags),
        "raw": verdict.raw,
        "seconds": verdict.seconds,
    }
