"""Optimizers without torch.compile's machinery: torch's own figures, and nothing of it loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from gptcore.models import GPT
from gptcore.train.eager import AdamW

Build = Callable[..., GPT]
ROOT = Path(__file__).resolve().parents[3]
TRAINS = """
import sys
import torch
from gptcore.models import GPTConfig
from gptcore.train import Muon, OptimizerConfig

model = GPTConfig(40, 8, width=8, n_layers=1, n_heads=1).build()
for config in (OptimizerConfig(), Muon()):
    optimizer = config.build(model)
    model(torch.arange(8).view(1, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
print("torch" in sys.modules, "torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""


def test_the_steps_are_those_of_torchs_adamw(gpt: Build) -> None:
    ours, theirs = gpt(), gpt()
    theirs.load_state_dict(ours.state_dict())
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1, "fused": True}
    optimizers = [
        (ours, AdamW(ours.parameters(), **settings)),
        (theirs, torch.optim.AdamW(theirs.parameters(), **settings)),
    ]
    for step in range(3):
        for model, optimizer in optimizers:
            torch.manual_seed(step)
            model(torch.randint(300, (2, 8))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    for mine, other in zip(optimizers[0][1].state.values(), optimizers[1][1].state.values(), strict=True):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine)


def test_training_loads_no_compiler() -> None:
    told = subprocess.run([sys.executable, "-c", TRAINS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True", "False", "False"]
