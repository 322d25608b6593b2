"""A tiny model that has learned the page a little, and the page as calibration text."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gptcore.batch import Batch
from gptcore.data.windows import WindowSource
from gptcore.models.gpt import GPT, GPTConfig
from gptcore.objectives import NextToken
from gptcore.tokenizer import Tokenizer


@pytest.fixture
def source(prepared: Any) -> WindowSource:
    """Windows of 16 tokens of the page."""
    opened: WindowSource = prepared.train.open()
    return opened


@pytest.fixture(scope="session")
def trained(page: str, tokenizer: Tokenizer) -> GPT:
    """A GPT of width 32 with 4 heads and 3 blocks after forty steps on the page."""
    torch.manual_seed(3)
    model = GPTConfig(vocab_size=300, context_length=32, width=32, n_layers=3, n_heads=4).build()
    ids = torch.tensor(tokenizer.encode(page))[:513]
    batch = Batch({"tokens": ids[:-1].view(-1, 16)}, {"labels": ids[1:].view(-1, 16)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(40):
        loss = NextToken()(model, batch)
        (loss.total / ids[1:].numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.requires_grad_(False)
    return model.eval()


@pytest.fixture
def learned(trained: GPT) -> Callable[[], GPT]:
    """Gives copies of it."""
    return lambda: copy.deepcopy(trained)
