"""What pretraining costs."""

from __future__ import annotations

from flows.stages.estimate import FORWARD_AND_BACKWARD, Cost, Estimate, Pass, n_samples


def cost(estimate: Estimate) -> Cost:
    """From the tokens of the corpus and the size of the model."""
    if estimate.model is None:
        return Cost(f"not known for {estimate.pipeline.pretrain.init}")
    length = estimate.model.context_length
    samples = n_samples(estimate.amounts.tokens / length, estimate.pipeline.pretrain.train)
    return estimate.cost(Pass(samples * length, FORWARD_AND_BACKWARD * estimate.whole))
