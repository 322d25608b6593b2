"""What fine-tuning for classification costs."""

from __future__ import annotations

from flows.stages.estimate import Cost, Estimate


def cost(estimate: Estimate) -> Cost:
    """From the rows and the size of the model."""
    if estimate.model is None:
        return Cost(f"not known for {estimate.pipeline.pretrain.init}")
    return estimate.cost(estimate.training("classify", estimate.pipeline.classify.train, estimate.blocks))
