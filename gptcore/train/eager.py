"""torch's optimizers without the machinery of torch.compile.

At the first call of an optimizer's methods torch imports ``torch._dynamo``, and with it sympy, ONNX's tables and much
else, to keep a compiler away from them: 75 MB and 3 s on two cores, in every process that trains, where nothing is
compiled. Its decorators leave the plain methods in ``__wrapped__``; these are called here. A torch whose methods are
not decorated loses nothing by it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


class EagerOptimizer(torch.optim.Optimizer):
    """Base of optimizers that are never compiled."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class AdamW(EagerOptimizer, torch.optim.AdamW):
    """``torch.optim.AdamW``; "Decoupled Weight Decay Regularization", https://arxiv.org/abs/1711.05101."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        _adamw_step(self, closure)


_adamw_step: Callable[..., Any] = inspect.unwrap(torch.optim.AdamW.step)
