"""Batch sizes in which a row does not feel its neighbours, to the last bit.

A library of matrix products takes sums in another order for a few rows than for many, and for rows that fall to another
thread: https://thinkingmachines.ai/blog/defeating-nondeterminism-in-llm-inference/. Which numbers of rows agree is
found by trying, since it depends on library, processor, threads and the model's sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptcore.errors import ConfigError
from gptcore.generation.decodable import Decodable

_STEP = 4
"""Rows of the blocks in which libraries of products work: a multiple of it is likelier to be cut evenly."""


@torch.no_grad()
def stable_batches(model: Decodable, *, at_least: int) -> list[int]:
    """Ascending batch sizes with equal logits for equal rows in every place; the last is ``at_least`` or above.

    Each size is tried with random tokens: its rows must agree with those of the largest, at the front and at the end.

    Raises:
        ConfigError: none is found up to twice ``at_least`` and 16 more.
    """
    draws = torch.Generator().manual_seed(0)
    lowest = (at_least + _STEP - 1) // _STEP * _STEP
    for largest in range(lowest, 2 * at_least + 17, _STEP):
        tokens = torch.randint(model.config.vocab_size, (2 * largest,), generator=draws)
        wide = _logits(model, tokens)[:largest]
        if torch.equal(_logits(model, tokens[:largest]), wide) and _is_stable(model, tokens[:largest], wide, largest):
            return [size for size in range(1, largest) if _is_stable(model, tokens[:largest], wide, size)] + [largest]
    raise ConfigError(
        f"no batch of {at_least} rows or a few more gives each row the same logits in every place on this machine "
        f"({torch.get_num_threads()} threads); try one thread, or go without exact answers"
    )


def _is_stable(model: Decodable, tokens: Tensor, logits: Tensor, size: int) -> bool:
    """Whether the first, the last and a turned batch of ``size`` rows have the logits that the whole gives them."""
    first, last = _logits(model, tokens[:size]), _logits(model, tokens[-size:])
    turned = _logits(model, tokens[:size].roll(1))
    same = torch.equal(first, logits[:size]) and torch.equal(last, logits[-size:])
    return same and torch.equal(turned, logits[:size].roll(1, dims=0))


def _logits(model: Decodable, tokens: Tensor) -> Tensor:
    device = next(iter(model.state_dict().values())).device
    cache = model.new_cache(len(tokens), capacity=1)
    return model.next_logits(tokens[:, None].to(device), cache=cache)
