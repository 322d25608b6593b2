"""The training loop and what it is made of."""

from gptcore.train.config import TrainConfig
from gptcore.train.guard import SpikePolicy
from gptcore.train.held_out import HeldOut, evaluate
from gptcore.train.logger import JsonlLogger, MemoryLogger, RunLogger
from gptcore.train.muon import Muon
from gptcore.train.optim import OptimizerConfig
from gptcore.train.result import Progress, TrainResult
from gptcore.train.schedule import Constant, Cosine, Schedule
from gptcore.train.trainer import Trainer

__all__ = [
    "Constant",
    "Cosine",
    "HeldOut",
    "JsonlLogger",
    "MemoryLogger",
    "Muon",
    "OptimizerConfig",
    "Progress",
    "RunLogger",
    "Schedule",
    "SpikePolicy",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "evaluate",
]
