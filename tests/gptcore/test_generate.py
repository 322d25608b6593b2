"""Decoding: the cache, ragged prompts and sampling change nothing about which tokens come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from gptcore.errors import ConfigError, DivergedError
from gptcore.generate import Sampling, generate, narrow
from gptcore.models.gpt import GPT

Build = Callable[..., GPT]
PROMPTS = [[5, 9, 2, 250, 17, 8], [7], [1, 2, 3], [299, 0, 44, 44, 44, 44, 44, 44, 3]]
WAYS = {
    "greedy": Sampling(max_new_tokens=12),
    "temperature": Sampling(max_new_tokens=12, temperature=1.3, seed=4),
    "top_k": Sampling(max_new_tokens=12, temperature=1.0, top_k=5, seed=4),
    "top_p": Sampling(max_new_tokens=12, temperature=1.0, top_p=0.8, seed=4),
    "all": Sampling(max_new_tokens=12, temperature=0.8, top_k=20, top_p=0.9, seed=4),
}


def without_cache(model: GPT, prompt: list[int], sampling: Sampling) -> list[int]:
    """The definition: the whole text through the model for each new token."""
    tokens, generator = list(prompt), torch.Generator().manual_seed(sampling.seed)
    for _ in range(sampling.max_new_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([tokens]))[:, -1]
        if sampling.temperature == 0:
            tokens.append(int(logits.argmax()))
        else:
            chances = narrow(logits / sampling.temperature, sampling).softmax(dim=-1)
            tokens.append(int(torch.multinomial(chances[0], 1, generator=generator)))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("way", WAYS)
def test_cached_decoding_equals_uncached(gpt: Build, way: str) -> None:
    model = gpt(tied_head=False)
    found = generate(model, [PROMPTS[0]], WAYS[way])
    assert found == [without_cache(model, PROMPTS[0], WAYS[way])]
    assert len(set(found[0])) > 2  # a model that repeats one token would show nothing


@pytest.mark.parametrize("way", WAYS)
def test_a_ragged_batch_gives_what_each_prompt_gives_alone(gpt: Build, way: str) -> None:
    model = gpt(qkv_bias=False, tied_head=False)
    together = generate(model, PROMPTS, WAYS[way])
    assert together == [generate(model, [prompt], WAYS[way])[0] for prompt in PROMPTS]
    assert len({tuple(row) for row in together}) == len(PROMPTS)


@pytest.mark.parametrize("cuts", [(1, 1, 1, 1, 1, 1, 1, 1, 1, 1), (4, 6), (9, 1), (3, 3, 4)])
def test_prefilling_in_chunks_equals_one_pass(gpt: Build, cuts: tuple[int, ...]) -> None:
    model, tokens = gpt(), torch.randint(300, (2, 10))
    cache, parts = model.new_cache(2), []
    with torch.no_grad():
        for piece in tokens.split(cuts, dim=1):
            parts.append(model(piece, cache=cache))
            cache.advance(piece.shape[1])
        assert torch.allclose(torch.cat(parts, dim=1), model(tokens), atol=1e-5)


def test_a_row_that_ends_early_does_not_disturb_the_others(gpt: Build) -> None:
    model, sampling = gpt(), WAYS["greedy"]
    alone = [generate(model, [prompt], sampling)[0] for prompt in PROMPTS]
    end = alone[1][3]
    together = generate(model, PROMPTS, sampling, end_token=end)
    assert together == [row[: row.index(end)] if end in row else row for row in alone]
    assert len(together[1]) <= 3


def test_should_stop_ends_a_row_after_the_token_that_it_saw(gpt: Build) -> None:
    whole = generate(gpt(), PROMPTS, WAYS["greedy"])
    stopped = generate(gpt(), PROMPTS, WAYS["greedy"], should_stop=lambda new: len(new) >= 4)
    assert stopped == [row[:4] for row in whole]


def test_tokens_are_streamed_in_the_order_in_which_they_come(gpt: Build) -> None:
    seen: list[tuple[int, int]] = []
    rows = generate(gpt(), PROMPTS, WAYS["all"], on_token=lambda row, token: seen.append((row, token)))
    assert [[token for row, token in seen if row == i] for i in range(len(PROMPTS))] == rows
    assert [row for row, _ in seen[:4]] == [0, 1, 2, 3]


def test_generation_ends_with_the_context_of_each_row(gpt: Build) -> None:
    model = gpt()
    long, short = list(range(30)), [1, 2, 3]
    rows = generate(model, [long, short], Sampling(max_new_tokens=500))
    assert [len(row) for row in rows] == [2, 29]
    assert rows[1] == generate(model, [short], Sampling(max_new_tokens=500))[0]


def test_the_models_mode_is_put_back(gpt: Build) -> None:
    model = gpt(dropout=0.5).train()
    assert generate(model, [[1]], WAYS["greedy"]) == generate(model, [[1]], WAYS["greedy"])
    assert model.training


def test_no_prompts_give_no_answers(gpt: Build) -> None:
    assert generate(gpt(), [], WAYS["greedy"]) == []


def test_a_tiny_top_p_keeps_one_token() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]])
    kept = narrow(logits, Sampling(temperature=1.0, top_p=1e-9)).isfinite()
    assert kept.tolist() == [[False, True, False], [True, False, False]]


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, n in ((0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)):
        assert int(narrow(logits, Sampling(top_p=top_p)).isfinite().sum()) == n


def test_ties_never_widen_top_k() -> None:
    kept = narrow(torch.zeros(1, 50), Sampling(top_k=3)).isfinite()
    assert int(kept.sum()) == 3


def test_draws_follow_the_probabilities(gpt: Build) -> None:
    model = gpt()
    chances = model(torch.tensor([[5, 9]]))[0, -1].detach().softmax(dim=0)
    n = 500
    rows = [generate(model, [[5, 9]], Sampling(max_new_tokens=1, temperature=1.0, seed=i))[0][0] for i in range(n)]
    likeliest = int(chances.argmax())
    share, expected = Counter(rows)[likeliest] / n, float(chances[likeliest])
    assert abs(share - expected) < 4 * (expected * (1 - expected) / n) ** 0.5


def test_another_seed_gives_another_text(gpt: Build) -> None:
    model = gpt()
    texts = [generate(model, [[5]], Sampling(max_new_tokens=12, temperature=1.0, seed=i))[0] for i in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(gpt: Build, bad: float, temperature: float) -> None:
    model = gpt(tied_head=False)
    with torch.no_grad():
        model.norm.bias.fill_(1.0)
        model.head.weight[7] = bad
    with pytest.raises(DivergedError, match="gives NaN or infinite logits; its weights are damaged or it diverged"):
        generate(model, [[1, 2]], Sampling(temperature=temperature))
    assert not model.training


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[1], []], "prompt 1 is empty; give at least one token"),
        ([[1], [2] * 32], "prompt 1 has 32 tokens, the model's context holds 32 and one must be free for the answer"),
    ],
)
def test_a_prompt_without_room_or_without_tokens_is_refused(gpt: Build, prompts: list[list[int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(gpt(), prompts, WAYS["greedy"])
