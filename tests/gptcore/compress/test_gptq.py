"""GPTQ: never worse than rounding on what it was calibrated on, better on the whole, stored as int4 is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.compress import Moments, calibrate, compare, gptq, gptq_matrix, output_error
from gptcore.data.windows import WindowSource
from gptcore.errors import ConfigError
from gptcore.models import GPT
from gptcore.nn import find_linears
from gptcore.tokenizer import Tokenizer
from gptcore.transforms import LoRA, Quantize, QuantizedLinear, QuantizedMatrix

Learned = Callable[[], GPT]


def moments_of(x: torch.Tensor) -> Moments:
    return Moments(len(x), x.sum(0), x.T @ x)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_rows", [8, 400])
def test_no_row_errs_more_than_rounded_to_the_nearest_and_all_together_much_less(seed: int, n_rows: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(24, 64)
    x = torch.randn(n_rows, 64) @ torch.randn(64, 64)  # correlated inputs: what GPTQ makes use of
    matrix, moments = gptq_matrix(weight, moments_of(x), group_size=16), moments_of(x)
    nearest = QuantizedMatrix(weight, bits=4, group_size=16)
    ours, rounded = (output_error(weight, each, moments) for each in (matrix, nearest))
    assert bool((ours <= rounded).all())
    assert float(ours.sum()) < 0.6 * float(rounded.sum())
    direct = ((x @ (weight - matrix.dense()).T) ** 2).mean(dim=0).double()
    assert torch.allclose(ours, direct, rtol=1e-3, atol=1e-6)


def test_inputs_that_do_not_hang_together_are_rounded_to_the_nearest() -> None:
    """A diagonal Hessian leaves nothing to make up for."""
    torch.manual_seed(0)
    weight = torch.randn(6, 32)
    matrix = gptq_matrix(weight, Moments(100, torch.zeros(32), torch.eye(32) * 100), group_size=8)
    assert torch.equal(matrix.codes, QuantizedMatrix(weight, bits=4, group_size=8).codes)


def test_inputs_that_are_always_zero_keep_their_weights_nearest_codes() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(6, 32), torch.randn(90, 32)
    x[:, 5:9] = 0.0
    dense = gptq_matrix(weight, moments_of(x), group_size=8).dense()
    nearest = QuantizedMatrix(weight, bits=4, group_size=8).dense()
    assert torch.equal(dense[:, 5:9], nearest[:, 5:9])


def test_a_whole_model_keeps_closer_to_the_original_than_rounded(learned: Learned, source: WindowSource) -> None:
    original = learned()
    plain = Quantize(bits=4, group_size=16)
    rounded = plain.apply(copy.deepcopy(original))
    calibrated = copy.deepcopy(original)
    gptq(calibrated, calibrate(calibrated, source, n_samples=64, seed=1), plain)
    ours, theirs = compare(original, calibrated, source), compare(original, rounded, source)
    assert 0 < ours.kl < 0.8 * theirs.kl
    for (name, a), (other, b) in zip(calibrated.named_buffers(), rounded.named_buffers(), strict=True):
        assert (name, a.shape, a.dtype) == (other, b.shape, b.dtype)
    assert isinstance(calibrated.blocks[0].get_submodule("attention.qkv"), QuantizedLinear)


def test_the_result_survives_a_checkpoint_bit_for_bit(
    learned: Learned, source: WindowSource, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model, transform = learned(), Quantize(bits=4, group_size=8)
    gptq(model, calibrate(model, source, n_samples=8, seed=1), transform)
    spec = ModelSpec(model.config, (transform,), tokenizer_digest=tokenizer.digest)
    checkpoint.save(tmp_path / "c", model=model, spec=spec, tokenizer=tokenizer)
    tokens = torch.randint(300, (2, 9))
    assert torch.equal(checkpoint.load(tmp_path / "c").model(tokens), model(tokens))


def test_the_same_text_gives_the_same_codes(learned: Learned, source: WindowSource) -> None:
    models = [learned() for _ in range(2)]
    for model in models:
        gptq(model, calibrate(model, source, n_samples=8, seed=1), Quantize(bits=4, group_size=8))
    for a, b in zip(models[0].buffers(), models[1].buffers(), strict=True):
        assert torch.equal(a, b)


def test_a_layer_is_calibrated_with_what_the_changed_layers_before_it_give(
    learned: Learned, source: WindowSource
) -> None:
    model = learned()
    calibration, seen = calibrate(model, source, n_samples=4, seed=1), dict[str, Moments]()

    def zeroed(name: str, layer: torch.nn.Linear, moments: Moments) -> torch.nn.Module:
        seen[name] = moments
        layer.weight.zero_()
        layer.bias.zero_()
        return layer

    with torch.no_grad():
        calibration.through(model, zeroed)
    assert list(seen) == [
        f"blocks.{i}.{name}" for i, block in enumerate(model.blocks) for name, _ in find_linears(block)
    ]
    assert float(seen["blocks.0.attention.qkv"].gram.abs().max()) > 0
    assert float(seen["blocks.0.attention.out"].gram.abs().max()) == 0  # the values before it are all zero now
    assert seen["blocks.0.attention.qkv"].n == 4 * 16


def test_a_lora_update_is_merged_first(learned: Learned, source: WindowSource) -> None:
    model = LoRA(rank=2).apply(learned())
    gptq(model, calibrate(model, source, n_samples=4, seed=1), Quantize(bits=4, group_size=8))
    assert isinstance(model.blocks[0].get_submodule("attention.qkv"), QuantizedLinear)


def test_eight_bits_and_bad_groups_are_refused(learned: Learned, source: WindowSource) -> None:
    model = learned()
    calibration = calibrate(model, source, n_samples=4, seed=1)
    with pytest.raises(
        ConfigError, match="expected 4 bits for GPTQ, got 8: at 8 bits rounding to the nearest loses nothing"
    ):
        gptq(model, calibration, Quantize(bits=8))
    with pytest.raises(ConfigError, match="32 inputs cannot be cut into groups of 20; choose an even divisor"):
        gptq(model, calibration, Quantize(bits=4, group_size=20))
    broken = Moments(4, torch.zeros(8), torch.full((8, 8), torch.nan))
    with pytest.raises(ConfigError, match="the activations of the calibration text have no usable Hessian"):
        gptq_matrix(torch.randn(4, 8), broken, group_size=8)
