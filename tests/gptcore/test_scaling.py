"""The scaling arithmetic against the models themselves: counted parameters, and memory measured tensor by tensor."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from gptcore import scaling
from gptcore.batch import Batch
from gptcore.errors import ConfigError
from gptcore.models import GPT, PRESETS, GPTConfig
from gptcore.objectives.next_token import NextToken
from gptcore.scaling import GPUS, Job
from gptcore.train.distributed import Sharded
from gptcore.train.parallel import Parallel

MEDIUM = GPTConfig(vocab_size=2048, context_length=96, width=256, n_layers=4, n_heads=4)
SMALL = GPTConfig(vocab_size=512, context_length=16, width=128, n_layers=2, n_heads=2)
DEEP = GPTConfig(vocab_size=1024, context_length=32, width=64, n_layers=8, n_heads=2)
XL = Job(PRESETS["gpt2-xl"], GPUS["h100"], n_gpus=8, precision="bf16")


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages made under it that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: weakref.WeakKeyDictionary[torch.UntypedStorage, list[int]] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in kinds):
            return NotImplemented  # its parts come by again, as plain tensors
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self.sizes:
                storage = tensor.untyped_storage()
                size = self.sizes[storage] = [0]
                self.resized(storage, storage.nbytes())
                weakref.finalize(storage, self.freed, size)
        return result

    def resized(self, storage: torch.UntypedStorage, n_bytes: int) -> None:
        """FSDP empties and fills storages without making new ones."""
        size = self.sizes[storage]
        self.now += n_bytes - size[0]
        size[0] = n_bytes
        self.peak = max(self.peak, self.now)

    def freed(self, size: list[int]) -> None:
        self.now -= size[0]


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> LiveBytes:
    counter = LiveBytes()
    resize = torch.UntypedStorage.resize_

    def counted(storage: torch.UntypedStorage, n_bytes: int) -> Any:
        result = resize(storage, n_bytes)
        if storage in counter.sizes:
            counter.resized(storage, n_bytes)
        return result

    monkeypatch.setattr(torch.UntypedStorage, "resize_", counted)
    return counter


@pytest.fixture
def group_of_eight() -> Iterator[None]:
    """Eight processes as far as this one can tell; nothing is sent, and every tensor is as large as it would be."""
    dist.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    yield
    dist.destroy_process_group()


def batch_of(job: Job) -> Batch:
    shape = (job.micro_batch_size, job.model.context_length)
    tokens = torch.randint(0, job.model.vocab_size, shape)
    return Batch({"tokens": tokens}, {"labels": tokens.clone()}, tokens.numel())


def built(job: Job, parallel: Parallel) -> GPT:
    placed = parallel.place(job.model.build(), precision=job.precision)
    assert isinstance(placed, GPT)
    if job.checkpoint_activations:
        placed.checkpoint_activations()
    return placed


def measured_peak(job: Job, parallel: Parallel, live: LiveBytes) -> int:
    """The most bytes that the second step holds, its forward and backward passes; the first one makes the moments."""
    with live:
        model = built(job, parallel)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        loss_of = parallel.loss_of(model, NextToken(), precision=job.precision)
        for _ in range(2):
            live.peak = 0
            for i in range(job.n_micro_batches):
                with parallel.sync_gradients(loss_of, last=i == job.n_micro_batches - 1):
                    (loss_of(batch_of(job)).total / 100).backward()
            peak = live.peak
            optimizer.step()
            optimizer.zero_grad()
    return peak


# --- parameters and operations


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("gpt2-small", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_the_four_gpt2_have_their_published_numbers_of_parameters(name: str, n: int) -> None:
    assert scaling.count_parameters(PRESETS[name]).total == n


@pytest.mark.parametrize("changes", [{}, {"tied_head": False}, {"qkv_bias": False}, {"n_heads": 1, "vocab_size": 7}])
def test_every_part_is_counted_as_the_model_has_it(changes: dict[str, Any]) -> None:
    config = replace(MEDIUM, **changes)
    with torch.device("meta"):
        names = dict(config.build().named_parameters())
    marks = {
        "token_embedding": "token_embedding",
        "position_embedding": "position_embedding",
        "attention": ".attention.",
        "feedforward": ".feedforward.",
        "norms": "norm",
        "head": "head",
    }
    counted = {
        part: sum(p.numel() for name, p in names.items() if mark in name and (part == "head") == ("head" in name))
        for part, mark in marks.items()
    }
    found = scaling.count_parameters(config)
    assert found._asdict() == counted
    assert found.total == sum(p.numel() for p in names.values())


def test_operations_of_a_token_are_palms() -> None:
    """nanoGPT's estimate for GPT-2 (124M): N without positions is 123,653,376."""
    assert scaling.flops_per_token(PRESETS["gpt2-small"]) == 6 * 123_653_376 + 12 * 12 * 12 * 64 * 1024
    untied = replace(PRESETS["gpt2-small"], tied_head=False)
    assert scaling.flops_per_token(untied) == scaling.flops_per_token(PRESETS["gpt2-small"])  # lookups cost nothing


# --- memory, measured


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(("config", "precision"), [(MEDIUM, "fp32"), (SMALL, "bf16")])
def test_a_forward_pass_holds_the_predicted_activations(
    live: LiveBytes, config: GPTConfig, precision: scaling.Precision, checkpointed: bool
) -> None:
    job = Job(config, GPUS["h100"], precision=precision, micro_batch_size=4, checkpoint_activations=checkpointed)
    context = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
    with live:
        model = built(job, Parallel(torch.device("cpu")))
        before = live.now
        with context:
            loss = NextToken()(model, batch_of(job))
    assert loss.total.requires_grad  # and holds what its backward pass needs
    copies = 0 if checkpointed else scaling.memory(job).weights * (precision == "bf16")
    head = config.vocab_size * config.width * job.product_bytes
    assert live.now - before - copies - head == pytest.approx(scaling.memory(job).activations, rel=0.01)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(("config", "precision"), [(MEDIUM, "fp32"), (SMALL, "bf16")])
def test_the_peak_of_a_step_is_predicted(
    live: LiveBytes, config: GPTConfig, precision: scaling.Precision, checkpointed: bool
) -> None:
    job = Job(config, GPUS["h100"], 1, precision, "ddp", 8, 4, checkpointed)
    peak = measured_peak(job, Parallel(torch.device("cpu")), live)
    assert 0.99 * peak <= scaling.memory(job).total <= 1.1 * peak


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    ("config", "precision", "n_micro_batches"), [(MEDIUM, "fp32", 1), (MEDIUM, "fp32", 2), (DEEP, "bf16", 2)]
)
def test_fsdp_needs_no_more_than_predicted(
    live: LiveBytes,
    group_of_eight: None,
    config: GPTConfig,
    precision: scaling.Precision,
    n_micro_batches: int,
    checkpointed: bool,
) -> None:
    """Loose above: in models so small the buffers weigh most, and on a CPU no exchange outlives its call."""
    job = Job(config, GPUS["h100"], 8, precision, "fsdp", 8 * 4 * n_micro_batches, 4, checkpointed)
    assert job.n_micro_batches == n_micro_batches
    peak = measured_peak(job, Sharded(), live)
    assert peak <= scaling.memory(job).total <= 1.3 * peak


# --- memory, reasoned


def test_memory_is_the_sum_of_its_parts_and_fsdp_spreads_what_belongs_to_parameters() -> None:
    n = scaling.count_parameters(XL.model).total
    alone, spread = scaling.memory(XL), scaling.memory(replace(XL, parallel="fsdp", micro_batch_size=64))
    assert alone.masters + alone.gradients + alone.moments == 16 * n
    assert spread.masters + spread.gradients + spread.moments == 16 * n // 8
    assert spread.weights == 0
    assert alone.buffers == 0 < spread.buffers
    assert alone.total == sum(alone)


def test_fsdp_holds_whole_gradients_while_it_accumulates() -> None:
    once, twice = (replace(XL, parallel="fsdp", micro_batch_size=size) for size in (64, 32))
    n = scaling.count_parameters(XL.model).total
    assert scaling.memory(twice).gradients - scaling.memory(once).gradients == 4 * n


def test_on_one_gpu_fsdp_is_what_ddp_is() -> None:
    one = replace(XL, n_gpus=1)
    assert scaling.memory(replace(one, parallel="fsdp")) == scaling.memory(one)
    assert scaling.communication(replace(one, parallel="fsdp")).total == 0


def test_logits_are_held_a_chunk_at_a_time() -> None:
    fp32 = [scaling.memory(replace(XL, precision="fp32", micro_batch_size=size)).logits for size in (1, 16)]
    assert fp32 == [80_000_000, 80_000_000]
    tiny = Job(SMALL, GPUS["l4"])
    assert scaling.memory(tiny).logits == 4 * 16 * 512


def test_the_largest_power_of_two_that_fits_is_taken() -> None:
    job = scaling.fit_job(XL, parallels=("ddp",))
    assert (job.parallel, job.micro_batch_size) == ("ddp", 16)
    assert scaling.fits(job)
    assert not scaling.fits(replace(job, micro_batch_size=32))
    small = scaling.fit_job(replace(XL, model=PRESETS["nano"], batch_size=100), parallels=("ddp",))
    assert small.micro_batch_size == 8  # 13 samples are each GPU's share


def test_ddp_is_preferred_where_it_fits_and_fsdp_taken_where_it_does_not() -> None:
    both = ("ddp", "fsdp")
    assert scaling.fit_job(XL, parallels=both).parallel == "ddp"
    small = scaling.fit_job(replace(XL, gpu=GPUS["rtx4090"]), parallels=both)
    assert small.parallel == "fsdp"
    assert scaling.fits(small)


def test_where_nothing_fits_the_least_is_kept_and_remedies_are_computed() -> None:
    job = scaling.fit_job(replace(XL, gpu=GPUS["rtx4090"], n_gpus=1), parallels=("ddp",))
    assert job.micro_batch_size == 1
    assert not scaling.fits(job)
    found = {remedy.change: remedy for remedy in scaling.remedies(job)}
    assert not found["--checkpoint-activations"].fits
    last = found["--checkpoint-activations --parallel fsdp --gpus 2"]
    assert last.fits
    assert last.total == scaling.memory(last.job).total <= last.job.limit
    assert all(remedy.total < scaling.memory(job).total for remedy in found.values())


def test_each_remedy_is_offered_where_it_can_help() -> None:
    job = Job(PRESETS["gpt2-xl"], GPUS["a100-40"], n_gpus=4, micro_batch_size=32)
    changes = [remedy.change for remedy in scaling.remedies(job)]
    single = ["--checkpoint-activations", "--micro-batch 1", "--precision bf16", "--parallel fsdp"]
    assert changes == [*single, " ".join(single), f"{' '.join(single)} --gpus 8"]
    old = replace(job, gpu=GPUS["t4"], precision="fp16")
    assert [remedy.change for remedy in scaling.remedies(old)][-1] == "--checkpoint-activations --micro-batch 1"
    assert scaling.remedies(replace(XL, gpu=GPUS["l4"], n_gpus=1024, batch_size=1024, checkpoint_activations=True))


# --- communication, speed, cost


def test_what_each_gpu_sends() -> None:
    n = scaling.count_parameters(XL.model).total
    assert scaling.communication(XL) == (int(2 * 7 / 8 * 4 * n), 0, 0)
    blocks = 48 * (12 * 1600**2 + 13 * 1600)
    fsdp = scaling.communication(replace(XL, parallel="fsdp", micro_batch_size=32))
    assert fsdp.all_gather == int(7 / 8 * 2 * (2 * blocks + n - blocks) * 2)
    assert fsdp.reduce_scatter == int(7 / 8 * 4 * n)


def test_more_than_one_machine_goes_through_the_network() -> None:
    assert scaling.bandwidth(replace(XL, n_gpus=1)) is None
    assert scaling.bandwidth(XL) == GPUS["h100"].link
    assert scaling.bandwidth(replace(XL, n_gpus=64)) == GPUS["h100"].network


def test_speed_follows_from_the_given_share_of_the_peak() -> None:
    speed = scaling.pace(XL, mfu=0.5, bandwidth_gb=450)
    flops = speed.tokens_per_second * scaling.flops_per_token(XL.model)
    assert flops / (8 * 989e12) == pytest.approx(0.5, rel=0.02)  # less the update
    assert speed.step_seconds == pytest.approx(512 * 1024 / speed.tokens_per_second)
    slower = scaling.pace(replace(XL, checkpoint_activations=True), mfu=0.5)
    assert slower.compute_seconds == pytest.approx(4 / 3 * speed.compute_seconds)


def test_an_exchange_that_computing_cannot_hide_is_added_to_the_step() -> None:
    job = replace(XL, micro_batch_size=16)
    hidden, shown = scaling.pace(job), scaling.pace(job, bandwidth_gb=1.0)
    assert hidden.exposed_seconds == 0.0
    behind = hidden.compute_seconds * 2 / 3 / job.n_micro_batches
    assert shown.exposed_seconds == pytest.approx(scaling.communication(job).total / 1e9 - behind)
    assert shown.tokens_per_second < hidden.tokens_per_second


def test_the_cost_of_twenty_tokens_for_each_parameter() -> None:
    speed = scaling.pace(XL)
    cost = scaling.cost(XL, speed, price=2.5)
    assert cost.n_tokens == 20 * 1_557_611_200
    assert cost.n_steps == -(-cost.n_tokens // (512 * 1024))
    assert cost.hours == pytest.approx(cost.n_tokens / speed.tokens_per_second / 3600, rel=1e-3)
    assert cost.price == pytest.approx(2.5 * 8 * cost.hours)
    assert scaling.cost(XL, speed, n_tokens=1).n_steps == 1
    assert scaling.cost(XL, speed).price is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_gpus": 0}, "expected n_gpus to be at least 1, got 0"),
        ({"batch_size": 4}, "batch_size is 4, fewer than the 8 GPUs"),
        ({"micro_batch_size": 0}, "expected micro_batch_size to be at least 1, got 0"),
        ({"gpu": GPUS["t4"]}, "T4 does not compute in bf16; give --precision fp16 or fp32"),
        ({"precision": "fp16", "parallel": "fsdp"}, "expected precision to be 'bf16' or 'fp32' with fsdp"),
    ],
)
def test_jobs_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(XL, **change)


def test_numbers_out_of_range_and_unknown_rates_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="expected mfu, a share of the peak rate, to be above 0 and at most 1, got 35"
    ):
        scaling.pace(XL, mfu=35)
    with pytest.raises(ConfigError, match="expected bandwidth to be above 0 GB/s, got -1"):
        scaling.pace(XL, bandwidth_gb=-1)
    speed = scaling.pace(XL)
    with pytest.raises(ConfigError, match="expected tokens to be at least 1, got 0"):
        scaling.cost(XL, speed, n_tokens=0)
    with pytest.raises(ConfigError, match="expected price to be at least 0, got -1"):
        scaling.cost(XL, speed, price=-1)
    cpu = replace(GPUS["cpu"], memory=16.0, fp32_tflops=0.1)
    with pytest.raises(ConfigError, match="what CPUs send to each other is not known; give it by --bandwidth"):
        scaling.pace(Job(SMALL, cpu, n_gpus=2))
    with pytest.raises(ConfigError, match="the peak rate of CPU in bf16 is not known; give it by --tflops"):
        scaling.pace(Job(SMALL, cpu, precision="bf16"))


def test_known_gpus_have_plausible_figures() -> None:
    """Half precision runs on tensor cores; no link is faster than the memory it reads from."""
    for name, gpu in GPUS.items():
        if name == "cpu":
            continue
        assert gpu.half_tflops is not None
        assert gpu.fp32_tflops is not None
        assert gpu.memory_bandwidth is not None
        assert gpu.link is not None
        assert gpu.network is not None
        assert gpu.fp32_tflops < gpu.half_tflops
        assert gpu.network <= gpu.link * 8
        assert gpu.link < gpu.memory_bandwidth
