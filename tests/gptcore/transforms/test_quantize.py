"""Quantized weights: layout, ties, what stays fp32, and through a checkpoint without a changed bit."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec, unique_tensors
from gptcore.errors import ConfigError
from gptcore.models import GPT
from gptcore.nn import merge_adapters
from gptcore.tokenizer import Tokenizer
from gptcore.transforms import (
    NF4,
    LoRA,
    LoRALinear,
    Quantize,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedMatrix,
    Transform,
)
from gptcore.transforms.quantize import narrow_rows

Build = Callable[..., GPT]


def test_int8_is_symmetric_per_row() -> None:
    matrix = QuantizedMatrix(torch.tensor([[127.0, -63.5, 0.0], [-1.0, 0.5, 0.25]]), bits=8, group_size=32)
    assert matrix.codes.dtype == torch.int8
    assert matrix.codes.tolist() == [[127, -64, 0], [-127, 64, 32]]
    assert matrix.scales.flatten().tolist() == pytest.approx([1.0, 1 / 127])


def test_int4_packs_two_codes_a_byte_low_nibble_first() -> None:
    weight = torch.tensor([[0.0, 15.0, 3.0, 7.0, -1.0, 0.0, 14.0, 0.4]])
    matrix = QuantizedMatrix(weight, bits=4, group_size=4)
    assert matrix.codes.tolist() == [[0 | 15 << 4, 3 | 7 << 4, 0 | 1 << 4, 15 | 1 << 4]]
    assert matrix.scales.tolist() == [[1.0, 1.0]]
    assert matrix.minimums.tolist() == [[0.0, -1.0]]
    assert matrix.dense().tolist() == [[0.0, 15.0, 3.0, 7.0, -1.0, 0.0, 14.0, 0.0]]


@pytest.mark.parametrize("transform", [Quantize(bits=8), NF4(block_size=16)], ids=["int8", "nf4"])
def test_a_layer_that_was_stored_is_let_go_before_the_next_one(
    gpt: Build, monkeypatch: pytest.MonkeyPatch, transform: Transform
) -> None:
    """The kind: whoever replaces layers holds all the old ones to the end, and a model takes twice its memory."""
    stored: list[weakref.ref[torch.nn.Module]] = []
    alive: list[int] = []
    linear = type(transform)._linear

    def watched(self: Transform, layer: torch.nn.Linear) -> torch.nn.Module:
        alive.append(sum(each() is not None for each in stored))
        stored.append(weakref.ref(layer))
        return linear(self, layer)  # type: ignore[arg-type]

    monkeypatch.setattr(type(transform), "_linear", watched)
    transform.apply(gpt())
    assert len(alive) == 8
    assert max(alive) <= 1  # the one that was just replaced may still be on its way


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_are_read_one_by_one_as_in_the_whole(bits: int) -> None:
    matrix = QuantizedMatrix(torch.randn(10, 8), bits=bits, group_size=4)
    rows = torch.tensor([[3, 3], [9, 0]])
    assert torch.equal(matrix.dense(rows), matrix.dense()[rows])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [0.0, 1.5, -2.0])
def test_constant_and_zero_rows_survive(bits: int, value: float) -> None:
    matrix = QuantizedMatrix(torch.full((2, 8), value), bits=bits, group_size=4)
    assert torch.allclose(matrix.dense(), torch.full((2, 8), value), atol=1e-6)


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.15), (4, 1.5)])
def test_a_quantized_model_stays_near_the_original(gpt: Build, bits: int, tolerance: float) -> None:
    model, tokens = gpt(), torch.randint(300, (2, 20))
    before = model(tokens)
    Quantize(bits=bits, group_size=8).apply(model)
    assert 0 < (model(tokens) - before).abs().max().item() < tolerance


def test_linear_layers_and_the_embedding_are_quantized_and_the_rest_stays(gpt: Build) -> None:
    model = gpt()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    Quantize().apply(model)
    kinds = {name: type(module) for name, module in model.named_modules()}
    assert kinds["token_embedding"] is QuantizedEmbedding
    assert {kinds[f"blocks.1.{name}"] for name in LAYERS} == {QuantizedLinear}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert not any(name.endswith(("qkv.weight", "up.weight")) for name, _ in model.named_parameters())
    assert not any(p.requires_grad for p in model.parameters())


LAYERS = ("attention.qkv", "attention.out", "feedforward.up", "feedforward.down")


def test_a_tied_embedding_stays_tied_and_is_stored_once(gpt: Build) -> None:
    model = gpt()
    Quantize().apply(model)
    assert isinstance(model.head, QuantizedLinear)
    assert isinstance(model.token_embedding, QuantizedEmbedding)
    assert model.head.matrix is model.token_embedding.matrix
    kept, aliases = unique_tensors(model)
    assert {name for name in kept if name.startswith("head.")} == set()
    assert {name for name in aliases if name.startswith("head.")} == {
        f"head.matrix.{part}" for part in ("codes", "scales", "minimums")
    }


def test_the_embeddings_bits_are_their_own(gpt: Build) -> None:
    model = gpt()
    Quantize(bits=4, group_size=8, embedding_bits=8).apply(model)
    assert isinstance(model.token_embedding, QuantizedEmbedding)
    assert model.token_embedding.matrix.bits == 8
    assert model.get_submodule("blocks.0.feedforward.up.matrix").bits == 4


def test_a_lora_update_is_merged_before_quantizing(gpt: Build) -> None:
    adapted, merged = (LoRA(rank=2).apply(gpt()) for _ in range(2))
    for model in (adapted, merged):
        torch.manual_seed(5)
        for module in model.modules():
            if isinstance(module, LoRALinear):
                torch.nn.init.normal_(module.lora_a, std=0.1)
                torch.nn.init.normal_(module.lora_b, std=0.1)
    merge_adapters(merged)
    tokens = torch.randint(300, (1, 9))
    plain = Quantize().apply(gpt())(tokens)
    assert torch.equal(Quantize().apply(adapted)(tokens), Quantize().apply(merged)(tokens))
    assert not torch.allclose(adapted(tokens), plain, atol=1e-2)


@pytest.mark.parametrize(
    "transforms",
    [
        (Quantize(bits=8),),
        (Quantize(bits=4, group_size=4, embedding_bits=4),),
        (LoRA(rank=2, targets=("up",)), Quantize(bits=4, group_size=8)),
    ],
)
@pytest.mark.parametrize("tied_head", [True, False])
def test_a_quantized_model_survives_a_checkpoint_bit_for_bit(
    gpt: Build, tokenizer: Tokenizer, tmp_path: Path, transforms: tuple[Transform, ...], tied_head: bool
) -> None:
    model = gpt(tied_head=tied_head)
    spec = ModelSpec(model.config, transforms, tokenizer_digest=tokenizer.digest)
    for transform in transforms:
        transform.apply(model)
    checkpoint.save(tmp_path / "c", model=model, spec=spec, tokenizer=tokenizer)
    loaded = checkpoint.load(tmp_path / "c")
    tokens = torch.randint(300, (2, 9))
    assert torch.equal(loaded.model(tokens), model.eval()(tokens))
    assert loaded.spec == spec
    for (name, ours), theirs in zip(model.state_dict().items(), loaded.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_int8_takes_less_than_a_third_of_the_bytes(gpt: Build, tokenizer: Tokenizer, tmp_path: Path) -> None:
    sizes = []
    for name, transforms in (("fp32", ()), ("int8", (Quantize(),))):
        model = gpt(width=64)
        spec = ModelSpec(model.config, transforms, tokenizer_digest=tokenizer.digest)
        for transform in transforms:
            transform.apply(model)
        checkpoint.save(tmp_path / name, model=model, spec=spec, tokenizer=tokenizer)
        sizes.append((tmp_path / name / "model.safetensors").stat().st_size)
    assert sizes[1] < sizes[0] / 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_weight_that_is_not_finite_is_refused(bad: float, bits: int) -> None:
    weight = torch.zeros(2, 8)
    weight[1, 3] = bad
    with pytest.raises(ConfigError, match="a weight is NaN or infinite; a diverged model cannot be quantized"):
        QuantizedMatrix(weight, bits=bits, group_size=4)


@pytest.mark.parametrize("group_size", [3, 5, 32])
def test_a_group_size_that_does_not_divide_the_inputs_is_refused(gpt: Build, group_size: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"16 inputs cannot be cut into groups of {group_size}; choose an even divisor"
    ):
        Quantize(bits=4, group_size=group_size).apply(gpt())


def test_activations_are_rounded_to_steps_that_int32_sums_have_room_for() -> None:
    x = torch.randn(5, 3072)
    x[1] = 0.0
    found = narrow_rows(x)
    steps = x.abs().amax(dim=-1) / 5504  # 2^31 / (127 * 3072)
    assert ((found - x).abs().amax(dim=-1) <= 0.5001 * steps).all()
    assert len(found[0].unique()) < len(x[0].unique())
    assert torch.equal(found[1], x[1])
    assert narrow_rows(torch.tensor([[1.0, float("nan")]])).isnan().any()


def test_activations_of_16_bits_go_with_8_bits_a_weight(gpt: Build) -> None:
    with pytest.raises(ConfigError, match="activation_bits is 16, which goes with 8 bits a weight only, and bits is 4"):
        Quantize(bits=4, activation_bits=16)
    tokens = torch.randint(300, (3, 9))
    with torch.no_grad():
        exact, rounded = (Quantize(activation_bits=bits).apply(gpt())(tokens) for bits in (32, 16))
    assert not torch.equal(exact, rounded)
    assert torch.allclose(exact, rounded, atol=2e-3 * float(exact.abs().max()))
