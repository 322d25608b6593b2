"""The book's classifier: every row padded to the longest of the training set, the logits of the last position.

"Build a Large Language Model (From Scratch)", chapter 6, https://github.com/rasbt/LLMs-from-scratch, with transformers'
faster GPT-2 in the place of the book's: the last block, the final norm and a new head are trained.

Shapes: B rows, T positions, K classes.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.measured import Measured, timed_steps
from benchmarks.options import Options
from benchmarks.peers.causal_lm import Sizes, gpt2
from benchmarks.peers.loop import adamw, facts_of, update
from benchmarks.prepare import LABELS, read_plan

END_OF_TEXT = 50256


def measure_padded(options: Options, folder: Path, *, sizes: Sizes) -> Measured:
    """One pass over the counted rows, shuffled, after the rows that are not counted."""
    plan = read_plan(folder)
    model = gpt2(sizes, context_length=1024)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.lm_head = nn.Linear(sizes.width, len(LABELS))
    for part in (model.transformer.h[-1], model.transformer.ln_f):
        for parameter in part.parameters():
            parameter.requires_grad_(True)
    optimizer = adamw(model.parameters(), kind=options.peer_optimizer)
    longest = plan["longest"]
    rows = [row["tokens"] + [END_OF_TEXT] * (longest - len(row["tokens"])) for row in plan["rows"]]
    padded = torch.tensor(rows)  # (rows, T)
    classes = torch.tensor([row["class"] for row in plan["rows"]])
    generator = torch.Generator().manual_seed(options.seed)
    counted = torch.tensor(plan["counted"])[torch.randperm(len(plan["counted"]), generator=generator)]
    batches = torch.cat([torch.tensor(plan["warmup"]), counted]).split(sizes.batch_size)

    def step(number: int) -> float:
        chosen = batches[number]
        logits = model(input_ids=padded[chosen], use_cache=False).logits[:, -1, :]  # (B, K)
        update(F.cross_entropy(logits, classes[chosen]), model, optimizer)
        return len(chosen)

    facts = facts_of(model, optimizer=f"AdamW, {options.peer_optimizer}", padded_to=longest)
    n_warm = len(plan["warmup"]) // sizes.batch_size
    return timed_steps(step, warmup=n_warm, n_steps=len(batches) - n_warm, facts=facts)
