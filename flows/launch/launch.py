"""Launch: in how many processes a training runs, on how many machines, and where other work is spread.

It decides how fast a stage ends and not what comes of it, so it belongs to no stage's key: an output that was begun
in one process is found, or resumed, by two.
"""

from __future__ import annotations

import os
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flows.launch.task_runners import Runner
from gptcore.errors import ConfigError, GptcoreError


class LaunchError(GptcoreError):
    """The processes of a training did not come together, or one of them died."""

    exit_code = 11


class Launch(BaseModel):
    """Processes and machines of each training; who prepares data and scores answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nproc: int = Field(default=1, ge=1, description="Processes on this machine, one for each GPU")
    nnodes: int = Field(default=1, ge=1, description="Machines; the others join by `gptworks join`")
    rdzv: str | None = Field(
        default=None,
        description="HOST:PORT of this machine, where the others find it",
        json_schema_extra={"pattern": r"^.+:\d{1,5}$"},
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="Copies of the model, or one model spread over the processes"
    )
    max_restarts: int = Field(default=0, ge=0, description="How often to restart all processes after a crash")
    runner: Runner = Field(default="threads", description="Who prepares data and scores answers, batch by batch")
    workers: int | None = Field(default=None, ge=1, description="How many at once; by default one per core")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.nnodes > 1 and self.rdzv is None:
            raise ConfigError(
                f"--nnodes is {self.nnodes}, but --rdzv is missing; "
                "give this machine's name and a free port, as in --rdzv node1:29500"
            )
        if self.rdzv is not None:
            address(self.rdzv)
            if self.nnodes == 1:
                raise ConfigError(
                    f"--rdzv is {self.rdzv!r}, but --nnodes is 1: one machine meets nobody; "
                    "give --nnodes, or leave --rdzv out"
                )
        if self.parallel == "fsdp" and self.nproc * self.nnodes == 1:
            raise ConfigError(
                "--parallel is 'fsdp', but there is one process: nothing to spread the model over; "
                "give --nproc or --nnodes, or leave --parallel out"
            )
        return self

    @property
    def n_workers(self) -> int:
        """Batches that are worked on at once."""
        return self.workers or os.cpu_count() or 1

    @property
    def alone(self) -> bool:
        """Whether the training runs in the calling process itself."""
        return self.nproc == self.nnodes == 1 and self.max_restarts == 0

    def check(self) -> None:
        """Refuse what this machine cannot do; called before anything is made.

        Raises:
            ConfigError: fewer GPUs than processes, or torchrun has started this process.
        """
        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise ConfigError(
                "gptworks was started by torchrun, which would run every stage once for each process; "
                "start it by itself, with --nproc: it calls torchrun where it trains"
            )
        check_gpus(self.nproc)

    def __str__(self) -> str:
        """The launch in words."""
        processes = f"{self.nproc} process{'es' if self.nproc > 1 else ''}"
        if self.nnodes > 1:
            processes = f"{self.nnodes} machines that meet at {self.rdzv}, here {processes}"
        several = f", {self.parallel}" if self.nproc * self.nnodes > 1 else ""
        restarts = f", restarted up to {self.max_restarts} times" if self.max_restarts else ""
        return f"{processes}{several}{restarts}"


def address(rdzv: str) -> tuple[str, int]:
    """Host and port of a meeting point.

    Raises:
        ConfigError: it has another form.
    """
    host, _, port = rdzv.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--rdzv: expected HOST:PORT, as in node1:29500, got {rdzv!r}")
    return host.strip("[]"), int(port)


def check_gpus(nproc: int) -> None:
    """Refuse more processes than GPUs, where there are GPUs.

    Raises:
        ConfigError: a GPU would have to serve two processes.
    """
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else nproc
    if nproc > n_gpus:
        raise ConfigError(
            f"--nproc: expected at most {n_gpus}, the GPUs of this machine, got {nproc}; each process needs its own"
        )
