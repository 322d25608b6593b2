"""Checkpoints of a model that is spread over processes: torch's distributed checkpoint, in safetensors.

Every process writes the parts it holds, so that nobody has to hold the whole; they are read again by any number of
processes, also by one. The folder is the usual one but for ``shards/`` in the place of ``model.safetensors`` and of the
optimizer's moments (torch.distributed.checkpoint, HuggingFaceStorageWriter).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from gptcore.errors import CheckpointError

SHARDS = "shards"
"""Name of their folder inside a checkpoint."""
_MODEL, _OPTIMIZER = "model/", "optimizer/"


def save_shards(folder: Path, *, model: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
    """Write this process's parts; every process must call it, with one folder that all of them see."""
    state = {_MODEL + name: tensor for name, tensor in model.items()}
    state |= {_OPTIMIZER + name: tensor for name, tensor in moments.items()}
    save(state, storage_writer=HuggingFaceStorageWriter(str(folder / SHARDS), save_distributed=True))


def load_shards(path: Path, *, model: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
    """Fill the given tensors, whole or spread, with what was saved by any number of processes.

    Raises:
        CheckpointError: something is missing or of another shape.
    """
    state = {_MODEL + name: tensor for name, tensor in model.items()}
    state |= {_OPTIMIZER + name: tensor for name, tensor in moments.items()}
    reader = HuggingFaceStorageReader(str(path / SHARDS))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single process")
            load(state, storage_reader=reader, no_dist=not dist.is_initialized())
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise CheckpointError(f"{path}: the shards do not fit this run: {first}") from error
