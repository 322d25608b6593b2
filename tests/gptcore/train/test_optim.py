"""AdamW: its groups, its arithmetic, and its state through a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gptcore.errors import CheckpointError, ConfigError
from gptcore.models import GPT
from gptcore.nn import freeze
from gptcore.train import OptimizerConfig
from gptcore.train.optim import optimizer_tensors, restore_optimizer
from gptcore.transforms import LoRA

Build = Callable[..., GPT]
CONFIG = OptimizerConfig(lr=1e-2, weight_decay=0.3)


def take_steps(model: GPT, optimizer: torch.optim.Optimizer, n: int) -> None:
    for i in range(n):
        torch.manual_seed(i)
        model(torch.randint(300, (2, 8))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def test_matrices_decay_and_vectors_do_not(gpt: Build) -> None:
    model = gpt()
    optimizer = CONFIG.build(model)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (name.endswith("weight") and "norm" not in name), name
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_a_step_is_decoupled_decay_and_adams_update(gpt: Build) -> None:
    model = gpt()
    optimizer = CONFIG.build(model)
    model(torch.randint(300, (2, 8))).square().mean().backward()
    before = {name: (p.detach().clone(), p.grad) for name, p in model.named_parameters()}
    optimizer.step()
    for name, parameter in model.named_parameters():
        old, grad = before[name]
        assert grad is not None
        decay = 0.3 if old.dim() >= 2 else 0.0
        expected = old * (1 - 1e-2 * decay) - 1e-2 * grad / (grad.abs() + 1e-8)
        assert torch.allclose(parameter, expected, atol=1e-5), name


def test_only_what_is_trained_is_optimized(gpt: Build) -> None:
    model = LoRA(rank=2).apply(gpt())
    optimizer = CONFIG.build(model)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for name, p in model.named_parameters() if "lora_" in name
    }


def test_the_state_goes_on_elsewhere_bit_for_bit(gpt: Build) -> None:
    one, other = gpt(), gpt(seed=8)
    optimizer, fresh = CONFIG.build(one), CONFIG.build(other)
    take_steps(one, optimizer, 3)
    other.load_state_dict(one.state_dict())
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, one).items()}
    assert "blocks.0.norm_1.weight/exp_avg_sq" in saved
    restore_optimizer(fresh, other, saved)
    take_steps(one, optimizer, 2)
    take_steps(other, fresh, 2)
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_state_of_other_parameters_is_refused(gpt: Build) -> None:
    model, adapted = gpt(), LoRA(rank=2).apply(gpt())
    optimizer = CONFIG.build(model)
    take_steps(model, optimizer, 1)
    with pytest.raises(CheckpointError, match="the saved optimizer state belongs to other parameters, for example "):
        restore_optimizer(CONFIG.build(adapted), adapted, optimizer_tensors(optimizer, model))


def test_a_model_that_is_frozen_whole_is_refused(gpt: Build) -> None:
    model = gpt()
    freeze(model)
    with pytest.raises(ConfigError, match="every parameter is frozen; nothing would be trained"):
        CONFIG.build(model)
