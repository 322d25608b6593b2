"""Work: the arithmetic of a network as it is trained, for its share of the machine's rate.

As in PaLM's appendix B, https://arxiv.org/abs/2204.02311: 6 N + 12 layers C T for a token of a model that is trained
whole. Here also for models whose parts are frozen, data in which not every token is a target, and short rows. What an
implementation computes again is not counted, and what it leaves out is.

Letters: N parameters, C width, T length of a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from gptcore.nn.surgery import count_coded


@dataclass(frozen=True)
class Work:
    """Operations of forward and backward pass."""

    per_token: float
    """In the matrices of the blocks."""
    per_item: float
    """In the head, which is only needed for what the loss counts."""
    per_pair: float
    """In attention, for each token and each place of its row."""

    @staticmethod
    def of(blocks: Iterable[nn.Module], head: nn.Module, *, width: int, looked_up: Iterable[nn.Parameter]) -> Work:
        """Two for each weight forward, two for the gradient of what goes into it where something is trained at or below
        it, two for the weight's own gradient where it is trained.

        Args:
            blocks: in the order in which they are passed through; each reads its weights once a token.
            head: reads its weights once an item.
            width: of the values that attention mixes.
            looked_up: tables below the blocks, of which a token reads one row.
        """
        reaches = any(p.requires_grad for p in looked_up)
        per_token, n_reached, n_blocks = 0.0, 0, 0
        for block in blocks:
            reaches = reaches or any(p.requires_grad for p in block.parameters())
            per_token += _matrices(list(block.parameters()), reaches=reaches)
            per_token += count_coded(block) * (2.0 + 2.0 * reaches)
            n_reached += reaches
            n_blocks += 1
        return Work(
            per_token=per_token,
            per_item=_matrices(list(head.parameters()), reaches=True) + 4.0 * count_coded(head),
            per_pair=4.0 * width * (n_blocks + 2 * n_reached),
        )

    def flop(self, *, n_tokens: int, n_items: int, n_rows: int) -> float:
        """Operations of a step: input tokens, items of the loss, and samples, taken to be of one length."""
        return n_tokens * (self.per_token + self.per_pair * n_tokens / n_rows) + n_items * self.per_item


def _matrices(parameters: list[nn.Parameter], *, reaches: bool) -> float:
    return sum(p.numel() * (2.0 + 2.0 * reaches + 2.0 * p.requires_grad) for p in parameters)
