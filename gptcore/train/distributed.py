"""Members of a group of processes: DDP and FSDP2.

DDP keeps a copy of the model in each process and averages the gradients ("PyTorch Distributed",
https://arxiv.org/abs/2006.15704); FSDP2 spreads parameters, gradients and optimizer over the processes ("PyTorch FSDP",
https://arxiv.org/abs/2304.11277).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from gptcore.errors import ConfigError
from gptcore.models.network import Network
from gptcore.objectives.base import Objective
from gptcore.train.config import Precision
from gptcore.train.parallel import DTYPES, Kind, LossModule, LossOf, Parallel

_GROUPS = itertools.count()
_PAST: list[dist.ProcessGroup | None] = []
"""Groups of this process."""


class _Distributed(Parallel):
    """What DDP and FSDP share: a process group."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        if torch.cuda.is_available():
            local = int(os.environ.get("LOCAL_RANK", "0"))
            torch.cuda.set_device(local)
            super().__init__(torch.device("cuda", local))
        else:
            super().__init__(torch.device("cpu"))

    def sum(self, values: Sequence[float]) -> list[float]:
        summed = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return [float(value) for value in summed.tolist()]

    def wait(self) -> None:
        dist.barrier()

    def broadcast(self, value: Any) -> Any:
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


class Replicated(_Distributed):
    """A copy of the model in each process; gradients are averaged during the backward pass."""

    def loss_of(self, model: Network, objective: Objective, *, precision: Precision) -> LossOf:
        """DDP around the objective of the model."""
        ids = [self.device.index] if self.device.type == "cuda" else None
        module = LossModule(model, objective, self.autocast(precision))
        return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)

    def sync_gradients(self, loss_of: LossOf, *, last: bool) -> AbstractContextManager[Any]:
        """No exchange before the last pass."""
        assert isinstance(loss_of, DistributedDataParallel)
        return nullcontext() if last else loss_of.no_sync()


class Sharded(_Distributed):
    """Parameters, gradients and optimizer state spread over the processes, gathered block by block."""

    sharded = True

    def place(self, model: Network, *, precision: Precision) -> Network:
        """Shard each block, then the rest.

        Raises:
            ConfigError: fp16, whose loss scaling is not built for spread gradients.
        """
        if precision == "fp16":
            raise ConfigError("expected precision to be 'bf16' or 'fp32' with fsdp, got 'fp16'")
        model.to(self.device)
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        low = DTYPES.get(precision)
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if low else None)
        model.before_sharding()
        for block in model.each_block():
            fully_shard(block, mesh=mesh, mp_policy=policy)
            for method in filter(partial(hasattr, block), model.block_entry_points):
                register_fsdp_forward_method(block, method)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        for method in model.entry_points:
            register_fsdp_forward_method(model, method)
        return model

    def autocast(self, precision: Precision) -> Callable[[], AbstractContextManager[Any]]:
        """FSDP casts parameters and inputs itself."""
        del precision
        return nullcontext

    def sync_gradients(self, loss_of: LossOf, *, last: bool) -> AbstractContextManager[Any]:
        """No reduction before the last pass."""
        assert isinstance(loss_of, LossModule)
        model = loss_of.model
        assert isinstance(model, FSDPModule)
        model.set_requires_gradient_sync(last)
        return nullcontext()

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> float:
        """The norm is that of the whole gradient."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def gather(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gathered one by one; the others' copies are dropped at once."""
        whole = {}
        for name, tensor in tensors.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            whole[name] = full.detach() if self.rank == 0 else full.new_empty(0)
        return whole

    def spread_like(self, target: Tensor, value: Tensor) -> Tensor:
        """Each process keeps its part of what has the target's shape."""
        if not isinstance(target, DTensor) or value.shape != target.shape:
            return value
        return distribute_tensor(value.to(self.device), target.device_mesh, target.placements)


@contextmanager
def group(kind: Kind) -> Iterator[Parallel]:
    """Join the processes that torchrun has started; the group ends with the block."""
    store, rank, world_size = next(rendezvous("env://"))
    # The store outlives groups and, where torchrun keeps it, restarted processes: without names of their own a group
    # reads the last one's keys. Where it is new with each attempt, machines that joined late count other restarts.
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if kept else "0"
    name = f"attempt-{attempt}/group-{next(_GROUPS)}"
    dist.init_process_group(
        "cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(name, store),
        rank=rank,
        world_size=world_size,
    )
    # Kept to the end of the process: where DDP's reducer is the last that knows the group, gloo's threads are joined
    # by one that holds the interpreter, which they may be waiting for; the group's own python object lets go of it.
    _PAST.append(dist.group.WORLD)
    try:
        yield Sharded() if kind == "fsdp" else Replicated()
    finally:
        dist.destroy_process_group()
