"""A tokenizer and tiny checkpoints for what lives only here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.models import GPTConfig, LlamaConfig, ModelConfig
from gptcore.tokenizer import Tokenizer, train_bpe
from gptcore.transforms import Transform

TEXT = "The keeper counted the ships each evening, and wrote their number in a green book beside the lamp. "
SIZES: dict[str, Any] = {"vocab_size": 280, "context_length": 32, "width": 16, "n_layers": 2, "n_heads": 2}
CONFIGS: dict[str, ModelConfig] = {"gpt2": GPTConfig(**SIZES), "llama": LlamaConfig(**SIZES, n_kv_heads=1)}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """280 tokens."""
    return train_bpe([TEXT], vocab_size=280)


@pytest.fixture
def saved(tmp_path: Path, tokenizer: Tokenizer) -> Callable[..., Path]:
    """Save a tiny model after some transforms; every trained weight is moved, so that nothing is at its start."""

    def build(*transforms: Transform, config: ModelConfig | str = "gpt2") -> Path:
        sizes = CONFIGS[config] if isinstance(config, str) else config
        torch.manual_seed(4)
        model = sizes.build()
        move(model)
        for transform in transforms:
            model = transform.apply(model)
            move(model)
        spec = ModelSpec(sizes, transforms, tokenizer_digest=tokenizer.digest)
        checkpoint.save(tmp_path / "checkpoint", model=model, spec=spec, tokenizer=tokenizer)
        return tmp_path / "checkpoint"

    return build


@torch.no_grad()
def move(model: torch.nn.Module) -> None:
    """Add noise to what is trained."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.15 * torch.randn_like(parameter)
