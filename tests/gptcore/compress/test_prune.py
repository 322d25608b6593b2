"""Pruning: the right weights go, the fit is the best there is, and what is left is a model like any other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.compress import (
    Pattern,
    calibrate,
    compare,
    magnitude,
    prune_blocks,
    prune_heads,
    prune_hidden,
    share_of_zeros,
    smaller,
    wanda,
)
from gptcore.data.windows import WindowSource
from gptcore.errors import ConfigError
from gptcore.export.hf import export_hf, import_hf
from gptcore.kernels import prepare_for_inference
from gptcore.models import GPT, GPTConfig
from gptcore.nn import count_parameters, find_linears
from gptcore.tokenizer import Tokenizer
from gptcore.transforms import LoRA

Learned = Callable[[], GPT]
STRUCTURED = {
    "heads": (prune_heads, 2, {"n_heads": 2, "head_width": 8}),
    "hidden": (prune_hidden, 32, {"hidden_width": 32}),
    "blocks": (prune_blocks, 2, {"n_layers": 2}),
}


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5])
def test_magnitude_drops_the_smallest_of_each_matrix(learned: Learned, sparsity: float) -> None:
    model, before = learned(), learned()
    magnitude(model, Pattern(sparsity))
    for block, old in zip(model.blocks, before.blocks, strict=True):
        for (_, ours), (_, theirs) in zip(find_linears(block), find_linears(old), strict=True):
            gone = ours.weight == 0
            assert int(gone.sum()) == int(sparsity * gone.numel())
            assert torch.equal(ours.weight[~gone], theirs.weight[~gone])
            if sparsity:
                assert float(theirs.weight[gone].abs().max()) <= float(theirs.weight[~gone].abs().min())
    assert share_of_zeros(model) == pytest.approx(sparsity, abs=1e-3)
    assert torch.equal(model.token_embedding.weight, before.token_embedding.weight)


def test_wanda_drops_in_each_row_what_its_input_needs_least(learned: Learned, source: WindowSource) -> None:
    model, before = learned(), learned()
    first = before.blocks[0].get_submodule("attention.qkv")
    assert isinstance(first, nn.Linear)
    calibration = calibrate(before, source, n_samples=8, seed=2)
    norms = calibration.moments(before.blocks[0], first).gram.diagonal().sqrt()
    wanda(model, calibrate(model, source, n_samples=8, seed=2), Pattern(0.5))
    gone = model.blocks[0].get_submodule("attention.qkv").weight == 0
    scores = first.weight.abs() * norms
    assert gone.sum(dim=1).tolist() == [16] * 96
    kept = scores.masked_fill(gone, torch.inf).amin(dim=1)
    assert bool((scores.masked_fill(~gone, 0.0).amax(dim=1) <= kept).all())


def test_wanda_keeps_closer_to_the_original_than_magnitude(learned: Learned, source: WindowSource) -> None:
    original, by_size, by_use = (learned() for _ in range(3))
    magnitude(by_size, Pattern(0.5))
    wanda(by_use, calibrate(by_use, source, n_samples=64, seed=2), Pattern(0.5))
    assert compare(original, by_use, source).kl < compare(original, by_size, source).kl


def test_two_of_each_four_neighbours_stay(learned: Learned, source: WindowSource) -> None:
    model = learned()
    wanda(model, calibrate(model, source, n_samples=4, seed=2), Pattern(keep=2, of=4))
    for block in model.blocks:
        for _, layer in find_linears(block):
            assert bool(((layer.weight.view(-1, 4) == 0).sum(dim=1) == 2).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pattern(1.0), "expected sparsity to be at least 0 and below 1, got 1.0"),
        (lambda: Pattern(keep=2), "expected both numbers of a pattern n:m, as in 2:4"),
        (lambda: Pattern(keep=4, of=4), "expected a pattern n:m with n above 0 and below m, got 4:4"),
        (
            lambda: Pattern(keep=2, of=5).select_lowest(torch.ones(2, 8), by_row=True),
            "8 inputs cannot be cut into groups of 5",
        ),
    ],
)
def test_a_pattern_that_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("what", STRUCTURED)
def test_a_pruned_model_is_a_smaller_model_of_its_own_configuration(
    learned: Learned, source: WindowSource, tokenizer: Tokenizer, tmp_path: Path, what: str
) -> None:
    prune, kept, changes = STRUCTURED[what]
    model = learned()
    n_before = count_parameters(model).total
    prune(model, calibrate(model, source, n_samples=16, seed=2), kept=kept)
    assert {name: getattr(model.config, name) for name in changes} == changes
    assert count_parameters(model).total == count_parameters(model.config.build()).total < n_before
    spec = ModelSpec(model.config, tokenizer_digest=tokenizer.digest)
    checkpoint.save(tmp_path / "c", model=model, spec=spec, tokenizer=tokenizer)
    loaded, tokens = checkpoint.load(tmp_path / "c").model, torch.randint(300, (2, 20))
    assert torch.equal(loaded(tokens), model(tokens))
    cache = loaded.new_cache(2)
    first = loaded(tokens[:, :12], cache=cache)
    cache.advance(12)
    cached = torch.cat([first, loaded(tokens[:, 12:], cache=cache)], dim=1)
    assert torch.allclose(cached, model(tokens), atol=1e-5)
    fast = prepare_for_inference(copy.deepcopy(model).requires_grad_(False))
    cache = fast.new_cache(2)
    with torch.no_grad():
        steps = []
        for i in range(20):
            steps.append(fast(tokens[:, i : i + 1], cache=cache))
            cache.advance(1)
    assert torch.allclose(torch.cat(steps, dim=1), model(tokens), atol=1e-4)
    last = torch.tensor([3, 19])
    assert torch.allclose(loaded.features_at(tokens, last), loaded.features(tokens)[[0, 1], last], atol=1e-5)


@pytest.mark.parametrize("what", STRUCTURED)
def test_a_pruned_model_is_exported_with_equal_logits_and_comes_back(
    learned: Learned, source: WindowSource, tokenizer: Tokenizer, tmp_path: Path, what: str
) -> None:
    transformers = pytest.importorskip("transformers")
    prune, kept, _ = STRUCTURED[what]
    model = prune(learned(), calibrate(learned(), source, n_samples=8, seed=2), kept=kept)
    spec = ModelSpec(model.config, tokenizer_digest=tokenizer.digest)
    checkpoint.save(tmp_path / "c", model=model, spec=spec, tokenizer=tokenizer)
    folder, tokens = export_hf(tmp_path / "c", tmp_path / "hf"), torch.randint(300, (2, 20))
    with torch.no_grad():
        logits = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()(tokens).logits
    assert torch.allclose(logits, model(tokens), atol=1e-4)
    back = checkpoint.load(import_hf(folder, tmp_path / "back")).model
    assert torch.allclose(back(tokens), model(tokens), atol=1e-5)


@pytest.mark.parametrize(("what", "layer"), [("heads", "attention.out"), ("hidden", "feedforward.down")])
def test_what_reads_the_rest_is_the_least_squares_fit(
    learned: Learned, source: WindowSource, what: str, layer: str
) -> None:
    """Of all weights on the kept inputs none gives the old outputs of the calibration text better."""
    prune, kept, _ = STRUCTURED[what]
    before, after = learned(), learned()
    inputs, outputs = list[torch.Tensor](), list[torch.Tensor]()
    calibration = calibrate(before, source, n_samples=64, seed=2)

    def look(_: nn.Module, x: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        inputs.append(x[0].flatten(0, 1))
        outputs.append(y.flatten(0, 1))

    hook = before.blocks[0].get_submodule(layer).register_forward_hook(look)
    for x, keywords in calibration.calls:
        before.blocks[0](x, **keywords)
    hook.remove()
    prune(after, calibrate(after, source, n_samples=64, seed=2), kept=kept)
    fitted = after.requires_grad_(False).blocks[0].get_submodule(layer)
    assert isinstance(fitted, nn.Linear)
    x, wanted = torch.cat(inputs).double().detach(), torch.cat(outputs).double().detach()
    chosen = _kept_inputs(before, after, what)
    design = torch.cat([x[:, chosen], torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    best = torch.linalg.lstsq(design, wanted).solution
    error = ((x[:, chosen] @ fitted.weight.double().T + fitted.bias.double() - wanted) ** 2).sum()
    least = ((design @ best - wanted) ** 2).sum()
    dropped = x.clone()
    dropped[:, [i for i in range(x.shape[1]) if i not in chosen]] = 0.0
    old = before.blocks[0].get_submodule(layer)
    plain = ((dropped @ old.weight.double().T + old.bias.double() - wanted) ** 2).sum()
    assert float(least) <= float(error) < 1.02 * float(least) + 1e-6
    assert float(error) < 0.7 * float(plain)


def _kept_inputs(before: GPT, after: GPT, what: str) -> list[int]:
    """Which inputs stayed, found by the rows of the layer that makes them."""
    if what == "hidden":
        old, new = before.blocks[0].feedforward.up.weight, after.blocks[0].feedforward.up.weight
        return [int((old == row).all(dim=1).nonzero()) for row in new]
    old, new = (m.blocks[0].attention.qkv.weight for m in (before, after))
    values = new[2 * len(new) // 3 :]
    return [int((old[64:] == row).all(dim=1).nonzero()) for row in values]


def test_a_head_that_does_nothing_goes_first(learned: Learned, source: WindowSource) -> None:
    model = learned()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.out.weight[:, 8:16] = 0.0  # nobody reads head 1
    tokens, original = torch.randint(300, (2, 20)), copy.deepcopy(model)
    prune_heads(model, calibrate(model, source, n_samples=32, seed=2), kept=3)
    assert torch.allclose(model(tokens), original(tokens), atol=1e-3)


def test_a_block_that_changes_nothing_goes_first(learned: Learned, source: WindowSource) -> None:
    model = learned()
    with torch.no_grad():
        for part in (model.blocks[1].attention.out, model.blocks[1].feedforward.down):
            part.weight.zero_()
            part.bias.zero_()
    tokens, original = torch.randint(300, (2, 20)), copy.deepcopy(model)
    prune_blocks(model, calibrate(model, source, n_samples=8, seed=2), kept=2)
    assert torch.equal(model(tokens), original(tokens))


def test_a_lora_update_is_merged_before_pruning(learned: Learned, source: WindowSource) -> None:
    model = LoRA(rank=2).apply(learned())
    prune_hidden(model, calibrate(model, source, n_samples=4, seed=2), kept=16)
    assert isinstance(model.blocks[0].feedforward.down, nn.Linear)


@pytest.mark.parametrize(
    ("what", "kept", "message"),
    [
        ("heads", 4, "expected to keep at least 1 and fewer than all 4 heads, got 4"),
        ("hidden", 0, "fewer than all 128 hidden neurons, got 0"),
        ("blocks", 3, "fewer than all 3 blocks, got 3"),
    ],
)
def test_keeping_nothing_or_everything_is_refused(
    learned: Learned, source: WindowSource, what: str, kept: int, message: str
) -> None:
    model = learned()
    with pytest.raises(ConfigError, match=message):
        STRUCTURED[what][0](model, calibrate(model, source, n_samples=4, seed=2), kept=kept)


def test_a_students_sizes_are_shares_of_the_teachers() -> None:
    config = GPTConfig(vocab_size=300, context_length=32, width=48, n_layers=5, n_heads=6, hidden_width=100)
    student = smaller(config, layers=0.4, width=0.5)
    assert (student.n_layers, student.n_heads, student.width, student.head_size) == (2, 3, 24, 8)
    assert student.hidden_size == 96
    assert smaller(config, layers=0.01, width=0.01).width == 8
