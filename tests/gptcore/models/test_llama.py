"""Llama: rotary positions, shared heads and gates, through everything that GPT-2 goes through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.errors import ConfigError
from gptcore.generation import Generator, Request, Sampling
from gptcore.models import Llama, LlamaConfig, ModelConfig
from gptcore.nn import count_parameters, merge_adapters
from gptcore.nn.shared_heads import attend
from gptcore.tokenizer import Tokenizer
from gptcore.train import MemoryLogger
from gptcore.transforms import Classifier, Dropout, ExtendVocabulary, LoRA, LoRALinear, Quantize

SIZES: dict[str, Any] = {"vocab_size": 300, "context_length": 32, "width": 32, "n_layers": 2, "n_heads": 4}
Build = Callable[..., Llama]


@pytest.fixture
def llama() -> Build:
    """Build a tiny Llama in evaluation mode whose every layer shapes the logits."""

    def build(seed: int = 0, **changes: Any) -> Llama:
        torch.manual_seed(seed)
        model = LlamaConfig(**{**SIZES, "n_kv_heads": 2, **changes}).build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.15 * torch.randn_like(parameter)
        return model.eval()

    return build


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_it_learns_a_fixed_batch(n_kv_heads: int) -> None:
    torch.manual_seed(0)
    model = LlamaConfig(**SIZES, n_kv_heads=n_kv_heads).build()
    tokens = torch.randint(300, (2, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(5.7, abs=0.3)
    assert losses[-1] < 0.5


def test_cached_and_packed_rows_equal_the_plain_ones(llama: Build) -> None:
    for n_kv_heads in (4, 2, 1):
        model = llama(n_kv_heads=n_kv_heads)
        first, second = torch.randint(300, (1, 11)), torch.randint(300, (1, 7))
        cache = model.new_cache(1)
        assert cache.layers[0].keys.shape[1] == n_kv_heads
        pieces = []
        for piece in (first[:, :5], first[:, 5:6], first[:, 6:]):
            pieces.append(model(piece, cache=cache))
            cache.advance(piece.shape[1])
        assert torch.allclose(torch.cat(pieces, dim=1), model(first), atol=1e-5)
        both = model.features(torch.cat([first, second], dim=1), lengths=[11, 7], packed=True)
        assert torch.allclose(both[:, :11], model.features(first), atol=1e-5)
        assert torch.allclose(both[:, 11:], model.features(second), atol=1e-5)
        at_ends = model.features_at(
            torch.cat([first, second], dim=1), torch.tensor([10, 17]), lengths=[11, 7], packed=True
        )
        assert torch.allclose(at_ends[1], model.features(second)[0, -1], atol=1e-5)


def test_ragged_prompts_are_answered_as_alone(llama: Build) -> None:
    model, prompts = llama(), [[5, 9, 200], [7], [1, 2, 3, 4, 250, 6, 7, 8]]
    sampling = Sampling(max_new_tokens=12)
    together = Generator(model).generate([Request(prompt, sampling) for prompt in prompts])
    for prompt, answer in zip(prompts, together, strict=True):
        ids = list(prompt)
        for _ in range(12):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        assert answer.ids == ids[len(prompt) :]


def test_shared_heads_equal_repeated_ones() -> None:
    queries, keys, values = torch.randn(2, 6, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    wide = [x.repeat_interleave(3, dim=1) for x in (keys, values)]
    whole = F.scaled_dot_product_attention(queries, *wide, is_causal=True)
    assert torch.allclose(attend(queries, keys, values, is_causal=True), whole, atol=1e-6)
    last = attend(queries[:, :, -1:], keys, values)
    assert torch.allclose(last, whole[:, :, -1:], atol=1e-6)
    mask = torch.tensor([True, True, False, True, True])
    one = F.scaled_dot_product_attention(queries[:, :, -1:], *wide, attn_mask=mask[None])
    assert torch.allclose(attend(queries[:, :, -1:], keys, values, mask=mask[None]), one, atol=1e-6)


def test_only_distances_matter_to_rotary_positions(llama: Build) -> None:
    """The same tokens after a row of others that nothing looks at would be told apart by learned positions."""
    model = llama(n_layers=1)
    block = model.blocks[0]
    x = torch.randn(1, 4, 32)
    near, far = (block.attention(x, mix=_mix_at(model, torch.arange(start, start + 4))) for start in (0, 20))
    assert torch.allclose(near, far, atol=1e-5)


def _mix_at(model: Llama, positions: torch.Tensor) -> Any:
    from gptcore.nn.mixing import causal
    from gptcore.nn.rotary import Turns, turned

    return turned(causal, Turns.at(positions, head_width=8, base=model.config.rope_base))


def test_every_transform_goes_over_it_and_survives_a_checkpoint(
    llama: Build, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokens = torch.randint(300, (2, 9))
    for transforms in (
        (LoRA(rank=2),),
        (Quantize(bits=8),),
        (Quantize(bits=4, group_size=16),),
        (Dropout(probability=0.2), Classifier(labels=("a", "b", "c"))),
        (ExtendVocabulary(vocab_size=304), LoRA(rank=2)),
    ):
        model = llama()
        config = model.config
        for transform in transforms:
            model = transform.apply(model)
        for module in model.modules():
            if isinstance(module, LoRALinear):
                torch.nn.init.normal_(module.lora_b, std=0.1)
        spec = ModelSpec(config, transforms, tokenizer_digest=tokenizer.digest)
        checkpoint.save(tmp_path / "c", model=model, spec=spec, tokenizer=tokenizer)
        loaded = checkpoint.load(tmp_path / "c").model
        before = model.eval()(tokens)
        assert torch.allclose(loaded(tokens), before, atol=1e-6)
        assert torch.allclose(merge_adapters(loaded)(tokens), before, atol=1e-4)


def test_recomputed_activations_give_the_same_gradients(llama: Build) -> None:
    tokens, gradients = torch.randint(300, (2, 9)), []
    for checkpointed in (False, True):
        model = llama()
        if checkpointed:
            model.checkpoint_activations()
        model.train()
        model.features(tokens).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-4)


def test_the_trainer_takes_it_like_any_other(prepared: Any, tmp_path: Path) -> None:
    run = prepared.run(model=LlamaConfig(**{**SIZES, "n_kv_heads": 1, "dropout": 0.1}))
    result = run.execute(tmp_path / "run", MemoryLogger())
    loaded = checkpoint.load(result.path)
    assert isinstance(loaded.model, Llama)
    assert loaded.spec.model == ModelConfig.from_dict(loaded.spec.model.to_dict())
    assert result.metrics["val/loss"] < 5.7


def test_sizes_follow_the_paper_and_impossible_ones_are_refused() -> None:
    assert LlamaConfig(width=4096, n_heads=32).hidden_size == 10944  # 8/3 of the width in steps of 32
    with torch.device("meta"):
        wide, shared = (LlamaConfig(**SIZES, n_kv_heads=n).build() for n in (4, 1))
    assert count_parameters(wide).total - count_parameters(shared).total == 2 * 2 * 3 * 8 * 32
    for change, message in (
        ({"n_kv_heads": 3}, "n_heads 4 is not a multiple of n_kv_heads 3"),
        ({"width": 36}, "width 36 is not an even multiple of n_heads 4"),
        ({"rope_base": 0.0}, r"rope_base is 0\.0; it must be above 0"),
        ({"hidden_width": 0}, "hidden_width is 0; it must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            LlamaConfig(**{**SIZES, **change})
