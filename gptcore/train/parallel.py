"""Training in one process, or in many through torch's own engines.

The trainer speaks to a ``Parallel``: here one process; ``gptcore.train.distributed`` has those for many, and is only
loaded where there are many. Model code knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gptcore.batch import Batch, Loss
from gptcore.models.network import Network
from gptcore.objectives.base import Objective
from gptcore.train.config import Precision

Kind = Literal["ddp", "fsdp"]
"""Copies of the model, or one model spread over the processes."""
LossOf = Callable[[Batch], Loss]
"""A batch to its summed loss, ready for the backward pass."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""torch's name of a precision; fp32 needs none."""


class Parallel:
    """One process; the base of those for many."""

    rank = 0
    """Number of this process; 0 writes and logs."""
    world_size = 1
    """Number of processes."""
    sharded = False
    """Whether parameters are spread over the processes."""

    def __init__(self, device: torch.device | None = None) -> None:
        """Use ``device``, by default the first GPU if there is one."""
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def place(self, model: Network, *, precision: Precision) -> Network:
        """The model on its device; called before the optimizer is built."""
        del precision
        model.to(self.device)
        return model

    def loss_of(self, model: Network, objective: Objective, *, precision: Precision) -> LossOf:
        """How a batch becomes a loss whose backward pass reaches every process."""
        return LossModule(model, objective, self.autocast(precision))

    def autocast(self, precision: Precision) -> Callable[[], AbstractContextManager[Any]]:
        """A context in which products are made in ``precision``."""
        dtype = DTYPES.get(precision)
        if dtype is None:
            return nullcontext
        return lambda: torch.autocast(self.device.type, dtype=dtype)

    def sync_gradients(self, loss_of: LossOf, *, last: bool) -> AbstractContextManager[Any]:
        """A context for one forward and backward pass; gradients are exchanged in the last one of a step alone."""
        del loss_of, last
        return nullcontext()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes, in float64."""
        return list(values)

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> float:
        """Scale the gradients down to ``max_norm``; their norm before that, over all processes."""
        return float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))

    def wait(self) -> None:
        """Wait until every process is here."""

    def broadcast(self, value: Any) -> Any:
        """Rank 0's ``value`` (JSON types), on every process."""
        return value

    def gather(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors, gathered where they are spread; every process must ask."""
        return tensors

    def spread_like(self, target: Tensor, value: Tensor) -> Tensor:
        """A whole tensor of the target's shape, spread and placed as the target is; others as they are."""
        return value.to(target.device)


class LossModule(nn.Module):
    """Objective of a model as a module, since DDP watches a module's forward."""

    def __init__(
        self, model: Network, objective: Objective, autocast: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        """Join them."""
        super().__init__()
        self.model = model
        self.objective = objective
        self._autocast = autocast

    def forward(self, batch: Batch) -> Loss:
        """The summed loss of a batch."""
        with self._autocast():
            return self.objective(self.model, batch)
