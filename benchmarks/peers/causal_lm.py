"""transformers' GPT-2 in a plain loop, whole or with peft's LoRA.

Shapes: B rows, T positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measured import Measured, timed_steps
from benchmarks.options import Options
from benchmarks.peers.loop import adamw, facts_of, update, window_reader


@dataclass(frozen=True)
class Sizes:
    """Model and batch of a work; the vocabulary is GPT-2's."""

    width: int
    n_layers: int
    n_heads: int
    batch_size: int
    length: int
    """T: tokens per row."""

    @property
    def n_tokens(self) -> int:
        """Tokens per step."""
        return self.batch_size * self.length


def gpt2(sizes: Sizes, *, context_length: int | None = None) -> Any:
    """transformers' GPT-2 with random weights, fused attention, no dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_positions=context_length or sizes.length,
        n_embd=sizes.width,
        n_layer=sizes.n_layers,
        n_head=sizes.n_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="sdpa",
    )
    return GPT2LMHeadModel(config).train()


def measure_transformers(options: Options, folder: Path, *, sizes: Sizes) -> Measured:
    """Next-token training of the whole model."""
    return _trained(gpt2(sizes), options, folder, sizes=sizes)


def measure_peft(options: Options, folder: Path, *, sizes: Sizes, rank: int, targets: tuple[str, ...]) -> Measured:
    """Next-token training of low-rank updates."""
    import peft

    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=list(targets),
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(gpt2(sizes), config)
    return _trained(model, options, folder, sizes=sizes, peft=peft.__version__)


def _trained(model: nn.Module, options: Options, folder: Path, *, sizes: Sizes, **more: Any) -> Measured:
    import transformers

    optimizer = adamw(model.parameters(), kind=options.peer_optimizer)
    read = window_reader(folder, length=sizes.length, batch_size=sizes.batch_size, seed=options.seed)

    def step(number: int) -> float:
        del number
        tokens = read()
        # the keys and values of a decoder are of no use in training; transformers' own Trainer turns them off too
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        update(loss, model, optimizer)
        return sizes.n_tokens

    facts = facts_of(model, optimizer=f"AdamW, {options.peer_optimizer}", transformers=transformers.__version__, **more)
    return timed_steps(step, warmup=options.warmup, n_steps=options.steps, facts=facts)
