"""What ``gptworks plan`` computes and prints. The sums themselves: ``gptcore/scaling``."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from gptcore import scaling
from gptcore.config import nearest
from gptcore.errors import ConfigError
from gptcore.models import PRESETS, GPTConfig
from gptcore.scaling import GPUS, Gpu, Job, Precision
from gptcore.scaling.job import USABLE
from gptcore.scaling.speed import MFU

_NOTES = (
    f"Share of the peak rate (--mfu): {MFU} by default, between nanoGPT's 0.29 and llm.c's 0.49 to 0.60.",
    "Rates and bandwidths are the makers' peaks; nothing here was measured on a GPU. See docs/scaling.md.",
)
_PARTS = {
    "weights": "weights of the products",
    "masters": "fp32 master weights",
    "gradients": "gradients",
    "moments": "optimizer moments (AdamW)",
    "activations": "activations",
    "logits": "logits chunk",
    "head_gradient": "gradient of the head",
    "working": "backward pass, block by block",
    "buffers": "communication buffers",
}


class Plan(NamedTuple):
    """A job and what it takes."""

    name: str
    """The preset it began with."""
    job: Job
    """What is trained, and where."""
    speed: scaling.Pace
    """How fast."""
    cost: scaling.Cost
    """For how long."""
    bandwidth: float | None
    """GB/s of the exchange; None on one GPU."""


def model_of(name: str, sizes: dict[str, int]) -> GPTConfig:
    """A preset with other sizes.

    Raises:
        ConfigError: the preset is unknown, or the sizes do not fit together.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown model {name!r}{nearest(name, PRESETS)}")
    changed: dict[str, Any] = dict(sizes)
    return dataclasses.replace(PRESETS[name], **changed)


def device_of(
    name: str, *, precision: Precision | None, tflops: float | None, memory: float | None
) -> tuple[Gpu, Precision]:
    """A known device with the given rate and memory, and the numbers that its products are made in.

    Raises:
        ConfigError: it is unknown, or a figure is out of range.
    """
    if name not in GPUS:
        raise ConfigError(f"unknown gpu {name!r}{nearest(name, GPUS)}")
    for option, value in (("--tflops", tflops), ("--memory", memory)):
        if value is not None and not value > 0:
            raise ConfigError(f"{option}: expected a value above 0, got {value}")
    gpu = GPUS[name]
    numbers = precision or _usual_precision(gpu)
    if tflops is not None:
        fp32 = numbers == "fp32"
        gpu = dataclasses.replace(gpu, fp32_tflops=tflops) if fp32 else dataclasses.replace(gpu, half_tflops=tflops)
    if memory is None and not gpu.memory:
        memory = psutil.virtual_memory().total / 1e9
    return (gpu if memory is None else dataclasses.replace(gpu, memory=memory)), numbers


def _usual_precision(gpu: Gpu) -> Precision:
    if gpu.half_tflops is None:
        return "fp32"
    return "bf16" if gpu.bf16 else "fp16"


def fit_job(job: Job, *, parallel: Literal["auto", "ddp", "fsdp"], micro_batch: int | None) -> Job:
    """The job with its engine and micro-batch: those given, or the first and the largest that fit."""
    kinds: tuple[scaling.Kind, ...] = ("ddp", "fsdp")
    if parallel != "auto":
        kinds = (parallel,)
    elif job.n_gpus == 1 or job.precision == "fp16":
        kinds = ("ddp",)
    return scaling.fit_job(job, parallels=kinds, micro_batch_size=micro_batch)


def estimate(
    name: str, job: Job, *, mfu: float | None, bandwidth: float | None, n_tokens: float | None, price: float | None
) -> Plan:
    """Speed and cost of a job.

    Raises:
        ConfigError: a number is out of range, or a rate of the device is not known.
    """
    speed = scaling.pace(job, mfu=MFU if mfu is None else mfu, bandwidth_gb=bandwidth)
    cost = scaling.cost(job, speed, n_tokens=None if n_tokens is None else int(n_tokens), price=price)
    return Plan(name, job, speed, cost, bandwidth if bandwidth and job.n_gpus > 1 else scaling.bandwidth(job))


def show(found: Plan, *, as_json: bool) -> None:
    """Print tables, or one JSON object."""
    console = Console()
    if as_json:
        console.print_json(json.dumps(_as_dict(found)))
        return
    job = found.job
    how = {True: "FSDP", False: "DDP"}[job.sharded] if job.n_gpus > 1 else "one process"
    console.print(
        f"{found.name}, context {job.model.context_length:,}, on {job.n_gpus} x {job.gpu.title}: {how}, "
        f"{job.precision}, {job.batch_size:,} samples a step, "
        f"{job.n_micro_batches} micro-batches of {job.micro_batch_size} on each GPU",
        soft_wrap=True,
        highlight=False,
    )
    for table in (_parameter_table(job), _memory_table(job)):
        console.print(table)
    _verdict(job, console)
    console.print(_speed_table(found))
    for note in _NOTES:
        console.print(note, soft_wrap=True, highlight=False)


def _parameter_table(job: Job) -> Table:
    table = _table("parameters", "number", "share", title="Parameters")
    parts = scaling.count_parameters(job.model)
    for name, n in parts._asdict().items():
        table.add_row(name.replace("_", " "), f"{n:,}", f"{n / parts.total:.1%}")
    table.add_row("total", f"{parts.total:,}", "", style="bold")
    return table


def _memory_table(job: Job) -> Table:
    chosen = "checkpointed" if job.checkpoint_activations else "kept"
    table = _table("GB", "activations kept", "checkpointed", title=f"Memory of a GPU (planned: {chosen})")
    kept, less = (scaling.memory(dataclasses.replace(job, checkpoint_activations=on)) for on in (False, True))
    for name, title in _PARTS.items():
        table.add_row(title, *(f"{getattr(memory, name) / 1e9:.2f}" for memory in (kept, less)))
    table.add_row("total", f"{kept.total / 1e9:.2f}", f"{less.total / 1e9:.2f}", style="bold")
    return table


def _verdict(job: Job, console: Console) -> None:
    total, limit = scaling.memory(job).total / 1e9, job.limit / 1e9
    room = f"{limit:.1f} GB ({USABLE:.0%} of {job.gpu.memory:g} GB)"
    if scaling.fits(job):
        console.print(f"[bold green]fits[/]: {total:.1f} of {room}", highlight=False, soft_wrap=True)
        return
    console.print(f"[bold red]does not fit[/]: {total:.1f} GB, more than the {room}", highlight=False, soft_wrap=True)
    table = _table("what would make it fit", "GB", "", title="Remedies")
    for remedy in scaling.remedies(job):
        table.add_row(remedy.change, f"{remedy.total / 1e9:.1f}", "fits" if remedy.fits else "not enough")
    console.print(table)


def _speed_table(found: Plan) -> Table:
    job, speed, cost = found.job, found.speed, found.cost
    sent = scaling.communication(job)
    table = _table("step, speed, cost", "", title="Time")
    rows = {
        "FLOP per token, forward and backward": f"{scaling.flops_per_token(job.model):.3e}",
        "computing per step": f"{speed.compute_seconds:.3f} s",
        "update per step": f"{speed.update_seconds:.3f} s",
    }
    if job.n_gpus > 1:
        names = {"all_reduce": "all-reduce", "all_gather": "all-gather", "reduce_scatter": "reduce-scatter"}
        rows |= {f"sent by each GPU, {names[k]}": f"{n / 1e9:.2f} GB" for k, n in sent._asdict().items() if n}
        rows[f"exchange at {found.bandwidth:g} GB/s"] = f"{speed.communication_seconds:.3f} s"
        rows["... of it not overlapped with computing"] = f"{speed.exposed_seconds:.3f} s"
    rows |= {
        "tokens per second": f"{speed.tokens_per_second:,.0f}",
        "tokens": f"{cost.n_tokens:,} ({cost.n_tokens / scaling.count_parameters(job.model).total:.0f} per parameter)",
        "steps": f"{cost.n_steps:,}",
        "hours": f"{cost.hours:,.1f}",
        "GPU-hours": f"{cost.gpu_hours:,.1f}",
    }
    if cost.price is not None:
        rows["cost"] = f"${cost.price:,.0f}"
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _table(first: str, *others: str, title: str) -> Table:
    table = Table(first, title=title, title_justify="left")
    for name in others:
        table.add_column(name, justify="right")
    return table


def _as_dict(found: Plan) -> dict[str, Any]:
    job = found.job
    parts, memory, sent = scaling.count_parameters(job.model), scaling.memory(job), scaling.communication(job)
    other = dataclasses.replace(job, checkpoint_activations=not job.checkpoint_activations)
    return {
        "model": {"name": found.name, **job.model.to_dict()},
        "parameters": parts._asdict() | {"total": parts.total},
        "flops_per_token": scaling.flops_per_token(job.model),
        "gpu": dataclasses.asdict(job.gpu),
        "n_gpus": job.n_gpus,
        "parallel": job.parallel if job.n_gpus > 1 else None,
        "precision": job.precision,
        "batch_size": job.batch_size,
        "micro_batch_size": job.micro_batch_size,
        "n_micro_batches": job.n_micro_batches,
        "checkpoint_activations": job.checkpoint_activations,
        "memory": memory._asdict() | {"total": memory.total, "limit": job.limit, "fits": scaling.fits(job)},
        "memory_the_other_way": scaling.memory(other)._asdict() | {"total": scaling.memory(other).total},
        "remedies": [
            {"change": remedy.change, "total": remedy.total, "fits": remedy.fits}
            for remedy in ([] if scaling.fits(job) else scaling.remedies(job))
        ],
        "communication": sent._asdict() | {"total": sent.total, "bandwidth_gb": found.bandwidth},
        "speed": found.speed._asdict() | {"step_seconds": found.speed.step_seconds},
        "cost": found.cost._asdict() | {"tokens_per_parameter": found.cost.n_tokens / parts.total},
        "notes": list(_NOTES),
    }
