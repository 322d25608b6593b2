"""Speculative decoding gives the large model's own greedy answer, whatever the draft says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from gptcore.errors import ConfigError, DivergedError, TokenizerMismatch
from gptcore.generation import Generator, Request, Sampling, speculate
from gptcore.kernels import prepare_for_inference
from gptcore.models.gpt import GPT

Build = Callable[..., GPT]
PROMPT = [5, 9, 2, 250, 17, 8]


def greedy(model: GPT, prompt: Sequence[int], n: int, end_token: int | None = None) -> list[int]:
    request = Request(prompt, Sampling(max_new_tokens=n), end_token=end_token)
    return Generator(model, slots=1).generate([request])[0].ids


@pytest.mark.parametrize("n_ahead", [1, 2, 4, 9])
@pytest.mark.parametrize("draft", ["itself", "another", "nearly itself"])
@pytest.mark.parametrize("prepared", [False, True])
def test_the_answer_is_the_large_models(gpt: Build, draft: str, n_ahead: int, prepared: bool) -> None:
    model = gpt(tied_head=False)
    small = gpt(tied_head=False) if draft != "another" else gpt(seed=7, n_layers=1, tied_head=False)
    if draft == "nearly itself":
        with torch.no_grad():
            small.head.weight += 0.05 * torch.randn_like(small.head.weight)  # type: ignore[arg-type,operator]
    if prepared:
        model, small = prepare_for_inference(model), prepare_for_inference(small)
    for prompt in (PROMPT, [7], list(range(31))):
        found = speculate(model, prompt, draft=small, max_new_tokens=20, n_ahead=n_ahead)
        assert found.tokens == greedy(model, prompt, 20)
        assert found.n_accepted <= found.n_drafted <= found.n_passes * n_ahead
        assert len(found.tokens) == 1 + found.n_passes + found.n_accepted
        if draft == "itself":
            assert found.n_accepted == found.n_drafted


@pytest.mark.parametrize("place", [0, 1, 2, 3, 6])
def test_the_end_token_ends_the_answer_wherever_it_comes(gpt: Build, place: int) -> None:
    model = gpt(tied_head=False)
    end = greedy(model, PROMPT, 20)[place]
    wanted = greedy(model, PROMPT, 20, end_token=end)
    for small in (gpt(tied_head=False), gpt(seed=7, tied_head=False)):
        assert speculate(model, PROMPT, draft=small, max_new_tokens=20, end_token=end).tokens == wanted


def test_a_good_draft_saves_passes(gpt: Build) -> None:
    model = gpt(tied_head=False)
    assert speculate(model, PROMPT, draft=model, max_new_tokens=21, n_ahead=4).n_passes == 4


@pytest.mark.parametrize(
    ("prompt", "changes", "options", "message"),
    [
        ([], {}, {}, "expected a prompt of 1 to"),
        ([1] * 16, {"context_length": 16}, {}, "the smaller of the two contexts holds 16"),
        ([1], {}, {"n_ahead": 0}, "expected n_ahead to be at least 1, got 0"),
        ([1], {}, {"max_new_tokens": 0}, "expected max_new_tokens to be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(
    gpt: Build, prompt: list[int], changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        speculate(gpt(), prompt, draft=gpt(**changes), **{"max_new_tokens": 5, **options})


def test_models_that_do_not_fit_are_refused(gpt: Build) -> None:
    with pytest.raises(
        TokenizerMismatch, match="expected a draft with the model's vocabulary of 300 tokens, got one of 200"
    ):
        speculate(gpt(), [1], draft=gpt(vocab_size=200), max_new_tokens=5)
    with pytest.raises(ConfigError, match="a model is in training mode"):
        speculate(gpt(), [1], draft=gpt(dropout=0.1).train(), max_new_tokens=5)
    broken = gpt()
    with torch.no_grad():
        broken.norm.bias[0] = float("nan")
    with pytest.raises(DivergedError, match="gives NaN or infinite logits"):
        speculate(broken, [1], draft=gpt(), max_new_tokens=5)
