"""Any ragged batch decodes like its rows one by one; any chunks prefill like one pass."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcore.generation import Generator, Request, Sampling
from gptcore.models import GPT, GPTConfig

V, T = 40, 12


def random_model() -> GPT:
    torch.manual_seed(3)
    model = GPTConfig(vocab_size=V, context_length=T, width=16, n_layers=2, n_heads=2, tied_head=False).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


MODEL = random_model()
PROMPTS = st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=T - 1), min_size=1, max_size=5)
SAMPLINGS = st.builds(
    Sampling,
    max_new_tokens=st.integers(1, T),
    temperature=st.sampled_from([0.0, 0.5, 1.5]),
    top_k=st.none() | st.integers(1, V + 3),
    top_p=st.none() | st.floats(0.05, 1.0),
    min_p=st.none() | st.floats(0.0, 1.0),
    repetition_penalty=st.sampled_from([0.8, 1.0, 1.3]),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=60, deadline=None)
@given(PROMPTS, SAMPLINGS, st.none() | st.integers(0, V - 1), st.integers(1, 4), st.integers(1, 6))
def test_a_ragged_batch_decodes_like_its_rows(
    prompts: list[list[int]], sampling: Sampling, end: int | None, slots: int, chunk: int
) -> None:
    requests = [Request(prompt, sampling, end_token=end) for prompt in prompts]
    together = Generator(MODEL, slots=slots, prefill_chunk=chunk).generate(requests)
    assert together == [Generator(MODEL, slots=1, prefill_chunk=chunk).generate([request])[0] for request in requests]
    for prompt, answer in zip(prompts, together, strict=True):
        assert len(answer.ids) <= min(sampling.max_new_tokens, T - len(prompt))
        assert end not in answer.ids


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 3))
def test_any_chunks_prefill_like_one_pass(cuts: list[int], n_rows: int) -> None:
    cuts = [cut for i, cut in enumerate(cuts) if sum(cuts[: i + 1]) <= T]
    tokens = torch.randint(V, (n_rows, sum(cuts)))
    cache, parts = MODEL.new_cache(n_rows), []
    with torch.no_grad():
        for piece in tokens.split(cuts, dim=1):
            parts.append(MODEL(piece, cache=cache))
            cache.advance(piece.shape[1])
        assert torch.allclose(torch.cat(parts, dim=1), MODEL(tokens), atol=1e-5)
