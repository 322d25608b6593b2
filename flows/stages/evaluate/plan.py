"""What the evaluation costs."""

from __future__ import annotations

from eval.trust import KNOWN_PAIRS
from eval.types import ControlCounts
from flows.stages.estimate import Cost, Estimate
from flows.stages.pipeline import Pipeline


def cost(estimate: Estimate) -> Cost:
    """The answers to score, and the questions to a judge."""
    pipeline = estimate.pipeline
    answers = min(estimate.amounts.test.get("instruct", 0.0), pipeline.instruct.max_responses)
    judged = f", and up to {_n_questions(pipeline, answers):.0f} questions to the judge, if one answers"
    return Cost(
        f"about {answers:.0f} answers to score{'' if pipeline.evaluate.judge == 'off' else judged}", seconds=1.0
    )


def _n_questions(pipeline: Pipeline, answers: float) -> float:
    """Controls and items of each judge of a panel; and where models are seen side by side, each pair in both orders."""
    config, n_models = pipeline.evaluate, len(pipeline.evaluate.judge_models)
    scored = (1 + len(config.judge_panel)) * (answers * n_models + ControlCounts().total)
    n_pairs = n_models * (n_models - 1) / 2 if config.pairwise else 0
    return scored + 2 * (n_pairs * answers + (KNOWN_PAIRS if n_pairs else 0))
