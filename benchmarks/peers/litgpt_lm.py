"""litgpt's model in the loop of its ``pretrain`` command; runs in litgpt's own environment.

Of GPT-2's size as far as litgpt has it: rotary positions instead of learned ones; the head shares the embedding's
weights only on demand (``litgpt pretrain --train.tie_embeddings true``).
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.measured import Measured, timed_steps
from benchmarks.options import Options
from benchmarks.peers.causal_lm import Sizes
from benchmarks.peers.loop import adamw, facts_of, update, window_reader


def measure_litgpt(options: Options, folder: Path, *, sizes: Sizes, tied: bool) -> Measured:
    """Next-token training of the whole model."""
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    torch.manual_seed(0)
    config = Config(
        block_size=sizes.length,
        vocab_size=50257,
        n_layer=sizes.n_layers,
        n_head=sizes.n_heads,
        n_embd=sizes.width,
        bias=True,
        attn_bias=True,
        parallel_residual=False,
        gelu_approximate="tanh",
    )
    model = GPT(config).train()
    if tied:
        model.transformer.wte.weight = model.lm_head.weight
    optimizer = adamw(model.parameters(), kind=options.peer_optimizer)
    read = window_reader(folder, length=sizes.length + 1, batch_size=sizes.batch_size, seed=options.seed)

    def step(number: int) -> float:
        del number
        tokens = read()
        loss = chunked_cross_entropy(model(tokens[:, :-1].contiguous()), tokens[:, 1:].contiguous())
        update(loss, model, optimizer)
        return sizes.n_tokens

    facts = facts_of(model, optimizer=f"AdamW, {options.peer_optimizer}", litgpt=version("litgpt"), tied=tied)
    return timed_steps(step, warmup=options.warmup, n_steps=options.steps, facts=facts)
