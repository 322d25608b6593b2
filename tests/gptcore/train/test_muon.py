"""Muon: which parameters it takes, its arithmetic against torch's own, its state through a checkpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore.errors import ConfigError, InterruptedRun
from gptcore.models import GPT, GPTConfig, LlamaConfig, ModelConfig
from gptcore.nn import freeze
from gptcore.nn.linear import maps_in
from gptcore.train import MemoryLogger, Muon, OptimizerConfig, Progress
from gptcore.train.eager import AdamW
from gptcore.train.muon import orthogonal
from gptcore.train.optim import optimizer_tensors, restore_optimizer, set_rate
from gptcore.transforms import Classifier, LoRA

Build = Callable[..., GPT]
CONFIG = Muon(lr=1e-2, weight_decay=0.3)
SMALL: dict[str, Any] = {"vocab_size": 50, "context_length": 8, "width": 64, "n_layers": 1, "n_heads": 4}


def take_steps(model: GPT, *optimizers: torch.optim.Optimizer, n: int = 1) -> None:
    for i in range(n):
        torch.manual_seed(i)
        model(torch.randint(300, (2, 8))).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)


def in_blocks(model: GPT) -> list[str]:
    return [name for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2]


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16), (2, 64)])
def test_an_orthogonal_matrix_has_the_same_directions_and_like_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    sizes = torch.logspace(0, -2, min(shape))  # the smallest a hundredth of the largest
    found = left.T @ orthogonal(left * sizes @ right) @ right.T
    assert float((found - found.diag().diag()).abs().max()) < 1e-4
    assert 0.6 < float(found.diag().min()) <= float(found.diag().max()) < 1.25


def test_a_gradient_of_zero_has_no_direction() -> None:
    assert torch.equal(orthogonal(torch.zeros(4, 6)), torch.zeros(4, 6))


class MapByMap:
    """torch's Muon over the maps in each matrix: queries, keys and values are three that share one."""

    def __init__(self, matrices: list[torch.nn.Parameter], n_maps: list[int]) -> None:
        self.pairs = [
            (matrix, number, torch.nn.Parameter(matrix.detach().chunk(n)[number]))  # the same memory
            for matrix, n in zip(matrices, n_maps, strict=True)
            for number in range(n)
        ]
        parts = [part for _, _, part in self.pairs]
        self.inner = torch.optim.Muon(parts, lr=1e-2, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")

    def step(self) -> None:
        for matrix, number, part in self.pairs:
            assert matrix.grad is not None
            part.grad = matrix.grad.chunk(len(matrix) // len(part))[number]
        self.inner.step()


def take_drawn_steps(model: GPT, *optimizers: torch.optim.Optimizer | MapByMap, n: int) -> None:
    """With gradients that have no singular value near zero, whose directions bf16 would lose."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(n):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


@torch.no_grad()
def moved(model: GPT, since: GPT) -> dict[str, torch.Tensor]:
    return {name: p - since.get_parameter(name) for name, p in model.named_parameters()}


def test_a_step_is_that_of_torchs_muon_and_of_adamw_for_the_rest(gpt: Build) -> None:
    one, other = gpt(n_layers=1), gpt(n_layers=1)
    take_drawn_steps(one, CONFIG.build(one), n=3)
    matrices = in_blocks(other)
    muon = MapByMap([other.get_parameter(name) for name in matrices], n_maps=[3, 1, 1, 1])
    rest = [p for name, p in other.named_parameters() if name not in matrices]
    take_drawn_steps(other, muon, OptimizerConfig(lr=1e-2, weight_decay=0.3).adamw(rest), n=3)
    expected = moved(other, gpt(n_layers=1))
    for name, change in moved(one, gpt(n_layers=1)).items():
        if name in matrices:  # torch's own computes in bf16, which has three digits
            assert float((change - expected[name]).norm()) < 0.02 * float(expected[name].norm()), name
        else:
            assert torch.equal(change, expected[name]), name
    assert len(matrices) == 4


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        (LlamaConfig(**SMALL, n_kv_heads=1), [64, 16, 16]),
        (LlamaConfig(**SMALL, n_kv_heads=2), [64, 32, 32]),
        (LlamaConfig(**SMALL), [64, 64, 64]),
        (GPTConfig(**SMALL), [64, 64, 64]),
        (GPTConfig(**SMALL, head_width=8), [32, 32, 32]),
    ],
)
def test_queries_keys_and_values_are_each_orthogonal_whatever_their_sizes(config: ModelConfig, rows: list[int]) -> None:
    torch.manual_seed(0)
    model = config.build()
    matrix = model.get_parameter("blocks.0.attention.qkv.weight")
    before, matrix.grad = matrix.detach().clone(), torch.randn(matrix.shape)
    Muon(lr=1.0, weight_decay=0.0).build(model).step()
    ahead = matrix.grad.lerp(torch.zeros_like(matrix).lerp_(matrix.grad, 1 - 0.95), 0.95)
    wanted = [0.2 * max(part.shape) ** 0.5 * orthogonal(part) for part in ahead.split(rows)]
    assert torch.equal(matrix.detach(), before.add_(torch.cat(wanted), alpha=-1.0))


def test_what_stands_in_one_matrix_is_said_by_the_module_that_fused_it(gpt: Build) -> None:
    model = gpt(n_layers=1)
    (rows,) = maps_in(model.blocks).values()
    assert rows == (16, 16, 16)
    optimizer = CONFIG.build(model)
    fused = [group for group in optimizer.param_groups if group.get("maps")]
    assert [group["maps"] for group in fused] == [(16, 16, 16)]
    assert [id(p) for p in fused[0]["params"]] == [id(model.get_parameter("blocks.0.attention.qkv.weight"))]


def test_the_first_step_moves_every_matrix_as_far_as_the_paper_says(gpt: Build) -> None:
    """A fifth of the rate in the root mean square, where AdamW's updates are found in large runs."""
    model = gpt(width=64)
    take_drawn_steps(model, Muon(lr=1e-3, weight_decay=0.0).build(model), n=1)
    for name, change in moved(model, gpt(width=64)).items():
        if name in in_blocks(model):
            assert float(change.square().mean().sqrt()) == pytest.approx(0.2e-3, rel=0.25), name


def test_the_matrices_have_a_rate_of_their_own(gpt: Build) -> None:
    model = gpt()
    optimizer = Muon(lr=1e-2, matrix_lr_scale=3.0).build(model)
    set_rate(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates.pop(id(parameter)) == (1.5 if name in in_blocks(model) else 0.5), name
    assert rates == {}


def test_adapters_in_the_blocks_are_muons_and_a_new_head_is_adamws(gpt: Build) -> None:
    adapted = LoRA(rank=2, also_train=("token_embedding",)).apply(gpt())
    take_steps(adapted, optimizer := CONFIG.build(adapted), n=2)
    kept = optimizer_tensors(optimizer, adapted)
    assert {name.rpartition("/")[2] for name in kept if "lora_" in name} == {"momentum"}
    assert "token_embedding.weight/exp_avg" in kept
    only_head = Classifier(labels=("a", "b"), train="head").apply(gpt())
    assert type(CONFIG.build(only_head)) is AdamW


def test_only_adapters_need_no_adamw(gpt: Build) -> None:
    adapted = LoRA(rank=2).apply(gpt())
    take_steps(adapted, optimizer := CONFIG.build(adapted), n=2)
    assert all(name.endswith("/momentum") for name in optimizer_tensors(optimizer, adapted))


def test_a_model_that_is_frozen_whole_is_refused(gpt: Build) -> None:
    model = gpt()
    freeze(model)
    with pytest.raises(ConfigError, match="every parameter is frozen; nothing would be trained"):
        CONFIG.build(model)


def test_the_state_goes_on_elsewhere_bit_for_bit(gpt: Build) -> None:
    one, other = gpt(), gpt(seed=8)
    optimizer, fresh = CONFIG.build(one), CONFIG.build(other)
    take_steps(one, optimizer, n=3)
    other.load_state_dict(one.state_dict())
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, one).items()}
    assert {"blocks.0.attention.qkv.weight/momentum", "blocks.0.norm_1.weight/exp_avg_sq"} < saved.keys()
    restore_optimizer(fresh, other, saved)
    take_steps(one, optimizer, n=2)
    take_steps(other, fresh, n=2)
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("step", [1, 6])
def test_a_resumed_run_ends_with_the_same_bits(prepared: Any, tmp_path: Path, step: int) -> None:
    run = prepared.run(train={"optimizer": Muon(lr=3e-3, matrix_lr_scale=2.0)})

    def stop(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    log = MemoryLogger()
    run.execute(tmp_path / "whole", log)
    losses = [value for _, value in log.series("train/loss")]
    assert losses[-1] < losses[0] - 0.2
    with pytest.raises(InterruptedRun):
        run.execute(tmp_path / "out", MemoryLogger(), on_progress=stop)
    run.execute(tmp_path / "out", MemoryLogger())
    for name in ("checkpoint/model.safetensors", "metrics.jsonl", "samples.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
