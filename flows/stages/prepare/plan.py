"""What data preparation costs."""

from __future__ import annotations

from flows.stages.estimate import Cost, Estimate

_PREPARED_CHARS = 2e6
"""Characters that are prepared in a second, all of it on one core; measured on a few megabytes of documentation."""


def cost(estimate: Estimate) -> Cost:
    """From the sizes of the sources."""
    there = estimate.pipeline.prepare.source.expected(estimate.places)
    n_chars = there.corpus_chars + sum(there.row_chars.values())
    return Cost(f"about {n_chars / 1e6:.1f} M characters", seconds=there.seconds + n_chars / _PREPARED_CHARS)
