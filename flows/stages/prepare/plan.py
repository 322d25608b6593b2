"""What data preparation costs."""

from __future__ import annotations

from flows.stages.estimate import Cost, Estimate
from flows.stages.unread import describe_unread

_PREPARED_CHARS = 2e6
"""Characters that are prepared in a second, all of it on one core; measured on a few megabytes of documentation."""


def cost(estimate: Estimate) -> Cost:
    """From the sizes of the sources."""
    source = estimate.pipeline.prepare.source
    there = source.estimate(estimate.places)
    n_chars = there.corpus_chars + sum(there.row_chars.values())
    words = "; ".join([f"about {n_chars / 1e6:.1f} M characters", *describe_unread(source.parts)])
    return Cost(words, seconds=there.seconds + n_chars / _PREPARED_CHARS)
