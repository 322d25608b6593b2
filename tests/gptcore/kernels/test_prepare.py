"""A prepared model answers like the plain one, trains and saves as before, and gives the same bits in any batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gptcore.generation import Generator, Request, Sampling
from gptcore.kernels import is_prepared, load_kernels, prepare_for_inference
from gptcore.kernels.prepare import MOST_ROWS_FP32, Continuation
from gptcore.models.gpt import GPT
from gptcore.transforms import LoRA, Quantize

Build = Callable[..., GPT]
KINDS: dict[str, dict[str, Any] | None] = {
    "fp32": None,
    "int8": {"bits": 8},
    "int8, int16 activations": {"bits": 8, "activation_bits": 16},
    "int4": {"bits": 4, "group_size": 32},
    "int4 in small groups": {"bits": 4, "group_size": 8, "embedding_bits": 4},
}
SIZES = {"width": 64, "n_heads": 4}
PROMPTS = [[5, 9, 2, 250, 17, 8], [7], [1, 2, 3], [299, 0, 44, 44, 44, 44, 44, 44, 3]]


@pytest.fixture(autouse=True)
def _kernels() -> None:
    if load_kernels() is None:
        pytest.skip("there is no C++ compiler for the kernels")


def build(gpt: Build, kind: str, **changes: Any) -> GPT:
    model, how = gpt(**SIZES, **changes), KINDS[kind]
    return model if how is None else Quantize(**how).apply(model).eval()  # type: ignore[return-value]


def answers(model: GPT, prompts: list[list[int]], *, slots: int = 3) -> list[list[int]]:
    requests = [Request(prompt, Sampling(max_new_tokens=14)) for prompt in prompts]
    return [answer.ids for answer in Generator(model, slots=slots, prefill_chunk=5).generate(requests)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False, "tied_head": False}], ids=["tied", "untied"])
def test_greedy_tokens_are_those_of_the_plain_model(gpt: Build, kind: str, changes: dict[str, Any]) -> None:
    plain, fast = build(gpt, kind, **changes), prepare_for_inference(build(gpt, kind, **changes))
    assert is_prepared(fast)
    assert not is_prepared(plain)
    found = answers(fast, PROMPTS)
    assert found == answers(plain, PROMPTS)
    assert len({tuple(row) for row in found}) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_logits_are_those_of_the_plain_model(gpt: Build, kind: str, n_threads: int) -> None:
    plain, fast = build(gpt, kind), prepare_for_inference(build(gpt, kind))
    # the last bits of an activation decide which of two steps it is rounded to
    atol = 1e-3 if "int16" in kind else 1e-4
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        for n_new in (1, 3, 17):
            caches = [model.new_cache(2, capacity=28) for model in (plain, fast)]
            for cache, model in zip(caches, (plain, fast), strict=True):
                _read(model, torch.arange(6).view(2, 3), cache)
                cache.lengths[1] = 1  # ragged: the second row goes on from its first token
            tokens = torch.randint(300, (2, n_new), generator=torch.Generator().manual_seed(n_new))
            logits = [_read(model, tokens, cache) for cache, model in zip(caches, (plain, fast), strict=True)]
            assert torch.allclose(*logits, atol=atol * float(logits[0].abs().max()))
            assert torch.allclose(caches[0].layers[1].keys[1, :, :2], caches[1].layers[1].keys[1, :, :2], atol=atol)
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def _read(model: GPT, tokens: Tensor, cache: Any) -> Tensor:
    logits: Tensor = model(tokens, cache=cache)
    cache.advance(tokens.shape[1])
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_same_bits_alone_and_among_others(gpt: Build, kind: str) -> None:
    model, tokens = prepare_for_inference(build(gpt, kind)), torch.randint(300, (5, 9))
    with torch.no_grad():
        together, alone, at_once = (model.new_cache(n, capacity=16) for n in (5, 1, 1))
        steps = []
        for i in range(9):
            steps.append(model(tokens[:, i : i + 1], cache=together))
            together.advance(1)
            assert torch.equal(model(tokens[2:3, i : i + 1], cache=alone), steps[-1][2:3])
            alone.advance(1)
        whole = model(tokens[2:3], cache=at_once)
    assert torch.equal(whole, torch.cat(steps, dim=1)[2:3])


def test_training_and_saving_are_as_before(gpt: Build) -> None:
    plain, fast = gpt(**SIZES), prepare_for_inference(gpt(**SIZES))
    assert plain.state_dict().keys() == fast.state_dict().keys()
    tokens = torch.randint(300, (2, 9))
    for model in (plain, fast):
        model.train()
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    gradients = zip(plain.parameters(), fast.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in gradients if a.grad is not None and b.grad is not None)
    assert fast.blocks[0].attention.qkv.weight.grad is not None  # type: ignore[union-attr]


def test_weights_changed_in_place_are_seen(gpt: Build) -> None:
    plain, fast = gpt(seed=3, **SIZES), prepare_for_inference(gpt(**SIZES))
    fast.load_state_dict(plain.state_dict())
    assert answers(fast, PROMPTS) == answers(plain, PROMPTS)


def test_layers_that_are_not_known_stay_as_they_are(gpt: Build) -> None:
    adapted = prepare_for_inference(LoRA(rank=2).apply(gpt(**SIZES)).eval())
    assert not isinstance(vars(adapted).get("features"), Continuation)
    assert is_prepared(adapted)  # what LoRA wraps, and the head, are plain layers
    double = prepare_for_inference(gpt(**SIZES).double())
    assert not is_prepared(double)
    assert len(answers(double, PROMPTS)[0]) == 14


def test_fewer_heads_than_the_width_has_room_for(gpt: Build) -> None:
    sizes = {"width": 64, "n_heads": 3, "head_width": 16, "hidden_width": 50}
    plain, fast = gpt(**sizes), prepare_for_inference(gpt(**sizes))
    assert isinstance(vars(fast).get("features"), Continuation)
    assert answers(fast, PROMPTS) == answers(plain, PROMPTS)


def test_narrow_activations_change_little(gpt: Build) -> None:
    exact = build(gpt, "int8")
    narrow = prepare_for_inference(build(gpt, "int8, int16 activations"))
    tokens = torch.randint(300, (9, 17))
    with torch.no_grad():
        wanted, found = exact(tokens), narrow(tokens)
    assert not torch.equal(wanted, found)
    assert torch.allclose(wanted, found, atol=2e-3 * float(wanted.abs().max()))


def test_many_rows_of_fp32_go_to_torch(gpt: Build) -> None:
    model, x = prepare_for_inference(gpt(**SIZES)), torch.randn(MOST_ROWS_FP32 + 1, 64)
    layer = model.blocks[0].attention.qkv  # type: ignore[union-attr]
    with torch.no_grad():
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))  # type: ignore[operator,union-attr,arg-type]
