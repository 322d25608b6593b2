"""transformers' GPT-2 as it decodes by default: ``generate`` with its key/value cache, greedy.

Shapes: B prompts, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.measured import Measured, timed_steps
from benchmarks.options import Options
from benchmarks.peers.causal_lm import Sizes, gpt2

PAD = 50_256


@torch.no_grad()
def measure_generate(
    options: Options, prompts: Sequence[Sequence[int]], *, n_new: int, width: int, n_layers: int, n_heads: int
) -> Measured:
    """All prompts in one batch, padded on the left, each continued by exactly ``n_new`` tokens."""
    import transformers

    sizes = Sizes(width=width, n_layers=n_layers, n_heads=n_heads, batch_size=len(prompts), length=1024)
    model = gpt2(sizes).eval()
    longest = max(map(len, prompts))
    tokens = torch.tensor([[PAD] * (longest - len(prompt)) + list(prompt) for prompt in prompts])  # (B, T)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def step(number: int) -> float:
        del number
        made = model.generate(
            tokens,
            attention_mask=mask,
            do_sample=False,
            min_new_tokens=n_new,
            max_new_tokens=n_new,
            pad_token_id=PAD,
        )
        return float((made.shape[1] - longest) * len(prompts))

    facts = {"transformers": transformers.__version__, "torch": torch.__version__, "threads": torch.get_num_threads()}
    return timed_steps(step, warmup=options.warmup, n_steps=options.steps, facts=facts)
