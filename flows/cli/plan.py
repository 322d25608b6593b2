"""``gptworks plan``: estimates of what training a model on given GPUs needs, before any is rented.

Only the options are here, so that ``--help`` is quick; ``flows/cli/plan_tables.py`` computes and prints.
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

ModelOption = Annotated[
    str, typer.Option(help="Preset to start from: gpt2-small, gpt2-medium, gpt2-large, gpt2-xl, mini, micro, nano.")
]
WidthOption = Annotated[int | None, typer.Option(help="Width, instead of the preset's.")]
LayersOption = Annotated[int | None, typer.Option(help="Number of blocks, instead of the preset's.")]
HeadsOption = Annotated[int | None, typer.Option(help="Attention heads, instead of the preset's.")]
ContextOption = Annotated[int | None, typer.Option(help="Context length, instead of the preset's.")]
VocabOption = Annotated[int | None, typer.Option(help="Vocabulary size, instead of the preset's.")]
GpusOption = Annotated[int, typer.Option(help="Number of GPUs; more than 8 are on machines of 8 each.")]
GpuOption = Annotated[str, typer.Option(help="Device: a100-40, a100-80, h100, l4, rtx4090, t4, cpu.")]
TflopsOption = Annotated[float | None, typer.Option(help="Peak TFLOP/s, instead of the table's; cpu needs it.")]
MemoryOption = Annotated[float | None, typer.Option(help="GB of a GPU; for cpu, by default, those of this machine.")]
ParallelOption = Annotated[Literal["auto", "ddp", "fsdp"], typer.Option(help="auto: ddp if it fits, else fsdp.")]
PrecisionOption = Annotated[
    Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="By default bf16, where the device supports it.")
]
MicroOption = Annotated[int | None, typer.Option(help="Samples per forward pass; default: the most that fit.")]
BatchOption = Annotated[int | None, typer.Option(help="Samples per step over all GPUs; default: 524,288 tokens.")]
CheckpointOption = Annotated[bool, typer.Option("--checkpoint-activations", help="Recompute each block's activations.")]
MfuOption = Annotated[
    float | None, typer.Option(help="Model FLOP utilization (share of the peak rate); default: 0.35.")
]
TokensOption = Annotated[float | None, typer.Option(help="Training tokens, as in 1e10; default: 20 per parameter.")]
PriceOption = Annotated[float | None, typer.Option(help="Price of a GPU-hour in dollars.")]
BandwidthOption = Annotated[
    float | None, typer.Option(help="Bandwidth of a ring over the GPUs in GB/s (nccl-tests' busbw).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def plan(
    model: ModelOption = "gpt2-small",
    width: WidthOption = None,
    layers: LayersOption = None,
    heads: HeadsOption = None,
    context: ContextOption = None,
    vocab: VocabOption = None,
    gpus: GpusOption = 1,
    gpu: GpuOption = "h100",
    tflops: TflopsOption = None,
    memory: MemoryOption = None,
    parallel: ParallelOption = "auto",
    precision: PrecisionOption = None,
    micro_batch: MicroOption = None,
    batch_size: BatchOption = None,
    checkpoint_activations: CheckpointOption = False,
    mfu: MfuOption = None,
    tokens: TokensOption = None,
    price: PriceOption = None,
    bandwidth: BandwidthOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate memory, communication, speed and cost of a training."""
    from flows.cli import plan_tables
    from gptcore.scaling import Job, usual_batch_size

    sizes = {"width": width, "n_layers": layers, "n_heads": heads, "context_length": context, "vocab_size": vocab}
    config = plan_tables.model_of(model, {name: value for name, value in sizes.items() if value is not None})
    device, numbers = plan_tables.device_of(gpu, precision=precision, tflops=tflops, memory=memory)
    samples = usual_batch_size(config, n_gpus=max(1, gpus)) if batch_size is None else batch_size
    job = Job(config, device, gpus, numbers, batch_size=samples, checkpoint_activations=checkpoint_activations)
    job = plan_tables.fit_job(job, parallel=parallel, micro_batch=micro_batch)
    found = plan_tables.estimate(model, job, mfu=mfu, bandwidth=bandwidth, n_tokens=tokens, price=price)
    plan_tables.show(found, as_json=as_json)
