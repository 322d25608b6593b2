"""The choice of a token: what is narrowed to, and that draws follow the probabilities."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from gptcore.errors import ConfigError
from gptcore.generation import Sampling, narrow
from gptcore.generation.sampling import penalise, sample_token

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def kept(logits: torch.Tensor, **how: float) -> list[int]:
    return narrow(logits[None], Sampling(temperature=1.0, **how))[0].isfinite().nonzero().flatten().tolist()  # type: ignore[arg-type]


def test_a_tiny_top_p_keeps_one_token() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]])
    found = narrow(logits, Sampling(temperature=1.0, top_p=1e-9)).isfinite()
    assert found.tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize(("top_p", "n"), [(0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)])
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, n: int) -> None:
    assert kept(LOGITS, top_p=top_p) == list(range(n))


@pytest.mark.parametrize(("min_p", "n"), [(0.0, 4), (0.09, 4), (0.11, 3), (0.29, 3), (0.31, 2), (0.7, 1), (1.0, 1)])
def test_min_p_keeps_what_is_not_far_below_the_likeliest(min_p: float, n: int) -> None:
    assert kept(LOGITS, min_p=min_p) == list(range(n))


def test_top_p_counts_what_top_k_has_left() -> None:
    assert kept(LOGITS, top_k=2, top_p=0.6) == [0]  # 0.5 of 0.8 is 0.625
    assert kept(LOGITS, top_p=0.6) == [0, 1]


def test_ties_never_widen_top_k() -> None:
    assert len(kept(torch.zeros(50), top_k=3)) == 3


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("how", [{"top_p": 0.9}, {"min_p": 0.05}, {"top_p": 0.95, "min_p": 0.02}])
def test_a_large_vocabulary_is_narrowed_as_if_all_of_it_were_sorted(spread: float, how: dict[str, float]) -> None:
    logits = spread * torch.randn(5000)
    chances, order = logits.double().softmax(dim=0).sort(descending=True)
    stays = (chances.cumsum(dim=0) - chances) < how.get("top_p", 1.0)
    stays &= chances >= how.get("min_p", 0.0) * chances[0]
    assert kept(logits, **how) == sorted(order[stays].tolist())


def test_draws_follow_the_probabilities() -> None:
    n, draws = 2000, torch.Generator().manual_seed(1)
    found = Counter(sample_token(LOGITS, Sampling(temperature=1.0), draws) for _ in range(n))
    for token, expected in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert abs(found[token] / n - expected) < 4 * (expected * (1 - expected) / n) ** 0.5


@pytest.mark.parametrize("temperature", [1e-320, 1e-30, 1e-3])
def test_a_tiny_temperature_takes_the_likeliest(temperature: float) -> None:
    logits = torch.tensor([1.0, 30.0, -2000.0, 29.0])
    assert sample_token(logits, Sampling(temperature=temperature), torch.Generator()) == 1


def test_a_token_of_no_probability_is_never_drawn() -> None:
    logits = torch.tensor([-1e9, 0.0, -1e9, -1e9])
    draws = torch.Generator().manual_seed(0)
    assert {sample_token(logits, Sampling(temperature=1.0), draws) for _ in range(200)} == {1}


def test_the_penalty_speaks_against_what_was_seen() -> None:
    logits, seen = torch.tensor([2.0, 2.0, -2.0, -2.0]), torch.tensor([True, False, True, False])
    assert penalise(logits, seen, 2.0).tolist() == [1.0, 2.0, -4.0, -2.0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"max_new_tokens": 0}, "expected max_new_tokens to be at least 1, got 0"),
        ({"temperature": -0.1}, "expected temperature to be 0 or more, and finite, got -0.1"),
        ({"temperature": float("nan")}, "expected temperature to be 0 or more, and finite, got nan"),
        ({"temperature": float("inf")}, "expected temperature to be 0 or more, and finite, got inf"),
        ({"top_k": 0}, "expected top_k to be at least 1, got 0"),
        ({"top_p": 0.0}, "expected top_p to be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.1}, "expected top_p to be above 0 and at most 1, got 1.1"),
        ({"min_p": -0.1}, "expected min_p to be from 0 to 1, got -0.1"),
        ({"min_p": float("nan")}, "expected min_p to be from 0 to 1, got nan"),
        ({"repetition_penalty": 0.0}, "expected repetition_penalty to be above 0, and finite, got 0.0"),
        ({"seed": 2**63}, "expected seed to fit 64 bits, got 9223372036854775808"),
    ],
)
def test_values_that_mean_nothing_are_refused(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**bad)  # type: ignore[arg-type]
