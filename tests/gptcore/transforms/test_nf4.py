"""NF4 as a transform and as the frozen base of LoRA: checkpoints, adapters, a training that learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec, unique_tensors
from gptcore.errors import ConfigError
from gptcore.models import GPT
from gptcore.nn import count_parameters, merge_adapters
from gptcore.nn.nf4 import NF4Embedding, NF4Linear
from gptcore.tokenizer import Tokenizer
from gptcore.train import TrainConfig
from gptcore.train.logger import MemoryLogger
from gptcore.train.optim import OptimizerConfig
from gptcore.transforms import NF4, LoRA, LoRALinear, QuantizedEmbedding, adapter_tensors

Build = Callable[..., GPT]


@pytest.mark.parametrize("embedding", ["int8", "nf4", "fp32"])
@pytest.mark.parametrize("tied_head", [True, False])
def test_a_model_survives_a_checkpoint_bit_for_bit(
    gpt: Build, tokenizer: Tokenizer, tmp_path: Path, embedding: Any, tied_head: bool
) -> None:
    transform, model = NF4(block_size=8, embedding=embedding), gpt(tied_head=tied_head)
    tokens = torch.randint(300, (2, 9))
    before = model(tokens)
    transform.apply(model)
    spec = ModelSpec(model.config, (transform,), tokenizer_digest=tokenizer.digest)
    checkpoint.save(tmp_path / "c", model=model, spec=spec, tokenizer=tokenizer)
    assert torch.equal(checkpoint.load(tmp_path / "c").model(tokens), model(tokens))
    assert 0 < (model(tokens) - before).abs().max().item() < 2.0
    assert count_parameters(model).total == count_parameters(gpt(tied_head=tied_head)).total
    assert isinstance(model.blocks[0].get_submodule("feedforward.down"), NF4Linear)
    kinds = {"int8": QuantizedEmbedding, "nf4": NF4Embedding, "fp32": torch.nn.Embedding}
    assert type(model.token_embedding) is kinds[embedding]
    if tied_head:
        assert not [name for name in unique_tensors(model)[0] if name.startswith("head.")]


def test_lora_on_a_quantized_base_trains_the_updates_alone(gpt: Build) -> None:
    model = LoRA(rank=2).apply(NF4(block_size=8).apply(gpt())).train()
    tokens = torch.randint(300, (2, 9))
    model(tokens).logsumexp(-1).sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 4
    assert all(name.endswith(("lora_a", "lora_b")) for name in trained)
    assert all(p.grad is not None for p in trained.values())
    assert all(float(p.grad.abs().max()) > 0 for name, p in trained.items() if name.endswith("lora_b"))


def test_a_merged_update_on_a_quantized_base_computes_the_same(gpt: Build) -> None:
    model = LoRA(rank=2).apply(NF4(block_size=8).apply(gpt()))
    for module in model.modules():
        if isinstance(module, LoRALinear):
            torch.nn.init.normal_(module.lora_b, std=0.1)
    tokens = torch.randint(300, (2, 9))
    before = model(tokens)
    merge_adapters(model)
    assert type(model.blocks[0].get_submodule("attention.out")) is torch.nn.Linear
    assert torch.allclose(model(tokens), before, atol=1e-4)


@pytest.mark.parametrize("embedding", ["int8", "fp32"])
def test_a_training_on_a_quantized_base_learns_and_its_adapter_fits_the_base(
    prepared: Any, tmp_path: Path, embedding: Any
) -> None:
    config = TrainConfig(steps=60, batch_size=8, optimizer=OptimizerConfig(lr=3e-2), eval_every=20)
    started = dataclasses.replace(prepared.run(), train=config).execute(tmp_path / "base", MemoryLogger())
    base = started.path
    also = ("token_embedding",) if embedding == "fp32" else ()
    transforms = (NF4(block_size=8, embedding=embedding), LoRA(rank=4, also_train=also))
    run = prepared.run(
        init=base, transforms=transforms, data=prepared.held_out
    )  # what it has not seen, and is to learn
    done = dataclasses.replace(run, train=config).execute(tmp_path / "run", MemoryLogger())
    first = checkpoint.load(base)
    loaded = checkpoint.load(done.path)
    assert done.metrics["val/loss"] < started.metrics["val/loss"] - 0.1
    tensors = adapter_tensors(loaded.model)
    checkpoint.save_adapter(tmp_path / "adapter", tensors=tensors, spec=loaded.spec, tokenizer=loaded.tokenizer)
    again = checkpoint.load_adapter(tmp_path / "adapter", base)
    tokens = torch.randint(300, (2, 9))
    assert torch.equal(again.model(tokens), loaded.model(tokens))
    assert not torch.allclose(first.model(tokens), loaded.model(tokens), atol=1e-2)


def test_a_quantized_embedding_cannot_be_trained(gpt: Build) -> None:
    with pytest.raises(ConfigError, match="also_train names 'token_embedding', whose weights are quantized"):
        LoRA(rank=2, also_train=("token_embedding",)).apply(NF4(block_size=8).apply(gpt()))


def test_a_block_size_that_cannot_be_is_refused(gpt: Build) -> None:
    with pytest.raises(ConfigError, match="block_size is 7; it must be even and at least 2"):
        NF4(block_size=7)
    with pytest.raises(ConfigError, match="16 inputs cannot be cut into blocks of 64; choose an even divisor"):
        NF4().apply(gpt())
