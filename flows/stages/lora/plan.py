"""What adaptation costs."""

from __future__ import annotations

from flows.stages.estimate import Cost, Estimate


def cost(estimate: Estimate) -> Cost:
    """From the rows of each task and the size of the model."""
    if estimate.model is None:
        return Cost(f"not known for {estimate.pipeline.pretrain.init}")
    config = estimate.pipeline.lora
    return estimate.cost(
        estimate.training("classify", config.classify, estimate.blocks),
        estimate.training("instruct", config.instruct, estimate.whole),
    )
