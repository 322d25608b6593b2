"""Checkpoints to export: of both families, instructed or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.models import GPTConfig, LlamaConfig
from gptcore.tokenizer import Tokenizer

SIZES: dict[str, Any] = {"context_length": 48, "width": 64, "n_layers": 2, "n_heads": 4}


@pytest.fixture
def portable(tmp_path: Path, tokenizer: Tokenizer) -> Callable[..., Path]:
    """Save a tiny model whose rows can be cut into blocks of 32; its weights are large enough to shape the logits."""

    def build(family: str = "gpt2", *, template: str | None = None, words: tuple[str, ...] = (), **sizes: Any) -> Path:
        known = tokenizer.with_special_tokens(words)
        kinds: dict[str, Any] = {"gpt2": GPTConfig, "llama": LlamaConfig}
        config = kinds[family](**{"vocab_size": known.vocab_size, **SIZES, **sizes})
        torch.manual_seed(5)
        model = config.build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.15 * torch.randn_like(parameter)
        spec = ModelSpec(config, template=template, tokenizer_digest=known.digest)
        checkpoint.save(tmp_path / f"{family}-checkpoint", model=model, spec=spec, tokenizer=known)
        return tmp_path / f"{family}-checkpoint"

    return build
