"""How close two models are that ought to be the same: their logits on the same tokens.

Shapes: T positions, V outputs.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from gptcore.errors import ExportMismatch
from gptcore.models import WordNetwork

TOLERANCE: Final = 1e-4
"""What sums in another order may cost, as a share of the largest logit where that is above 1."""
_LONGEST: Final = 128


class Agreement(NamedTuple):
    """Two sets of logits over the same tokens."""

    largest_difference: float
    """The largest absolute difference of two logits."""
    same_top: float
    """Share of positions at which both find the same token likeliest: greedy answers go the same way there."""
    kl_divergence: float
    """Mean over the positions, in nats: of the second's distribution from the first's."""
    scale: float
    """The largest logit, in absolute value."""

    def __str__(self) -> str:
        """In a line, for people."""
        return (
            f"against fp32: logits differ by up to {self.largest_difference:.3g} of {self.scale:.3g}, "
            f"{self.same_top:.1%} of the likeliest tokens are the same, KL {self.kl_divergence:.3g}"
        )

    @property
    def is_equal(self) -> bool:
        """Whether nothing but the order of sums can be between them."""
        return self.largest_difference <= TOLERANCE * max(1.0, self.scale)

    def require(self, *, what: str) -> None:
        """Insist on equality.

        Raises:
            ExportMismatch: it is not there.
        """
        if not self.is_equal:
            raise ExportMismatch(
                f"{what} gives other logits than the model: they differ by up to {self.largest_difference:.3g} where "
                f"{TOLERANCE * max(1.0, self.scale):.3g} is allowed, and {self.same_top:.1%} of the likeliest "
                "tokens are the same; nothing was published. This is a fault of the export; please report it"
            )


def agreement(first: Tensor, second: Tensor) -> Agreement:
    """Compare logits (T, V).

    Raises:
        ExportMismatch: the shapes differ, or a logit is not finite.
    """
    if first.shape != second.shape:
        raise ExportMismatch(f"expected outputs of shape {tuple(first.shape)}, got {tuple(second.shape)}")
    if not bool(torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise ExportMismatch("a logit is NaN or infinite; the weights are damaged, or the training diverged")
    ours, theirs = first.double().log_softmax(-1), second.double().log_softmax(-1)
    return Agreement(
        largest_difference=float((first - second).abs().max()),
        same_top=float((first.argmax(-1) == second.argmax(-1)).double().mean()),
        kl_divergence=max(0.0, float((ours.exp() * (ours - theirs)).sum(-1).mean())),
        scale=float(first.abs().max()),
    )


def probe(model: WordNetwork) -> list[int]:
    """Token ids on which a model is compared: drawn from its whole vocabulary, the same for the same sizes."""
    length = min(model.config.context_length, _LONGEST)
    drawn = torch.randint(model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(0))
    ids: list[int] = drawn.tolist()
    return ids
