"""What compression costs."""

from __future__ import annotations

from flows.stages.estimate import FORWARD, FORWARD_AND_BACKWARD, Cost, Estimate, Pass, n_samples


def cost(estimate: Estimate) -> Cost:
    """Every method is measured beside the original, and some are trained."""
    if estimate.model is None:
        return Cost(f"not known for {estimate.pipeline.pretrain.init}")
    config, amounts, length = estimate.pipeline.compress, estimate.amounts, estimate.model.context_length
    instructed = config.model == "instruct" and "instruct" in amounts.rows
    per_row = estimate.row_tokens("instruct") if instructed else length
    held_out = amounts.test["instruct"] * per_row if instructed else amounts.tokens / 10
    n_rows = amounts.rows["instruct"] if instructed else amounts.tokens / length
    trained = config.n_trainings * n_samples(n_rows, config.train) * per_row
    return estimate.cost(
        Pass(2 * (1 + len(config.methods)) * held_out, FORWARD * estimate.whole),
        Pass(trained, FORWARD_AND_BACKWARD * estimate.whole),
    )
