"""The table of forms: what must be equal is, what cannot be is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flows.stages.equivalence import compare_forms, compare_merged
from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.models import GPTConfig, LlamaConfig, ModelConfig
from gptcore.tokenizer import train_bpe
from gptcore.transforms import LoRA, LoRALinear, Quantize

SIZES = {"context_length": 40, "width": 32, "n_layers": 2, "n_heads": 2}


def saved(config: ModelConfig, path: Path, *, adapted: bool = False) -> Path:
    """A checkpoint of random weights large enough to shape the logits; all is the same each time."""
    tokenizer = train_bpe(["the keeper counted the ships"], vocab_size=260)
    torch.manual_seed(0)
    model = config.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    update = LoRA(rank=2)
    if adapted:
        model = update.apply(model)
        for module in model.modules():
            if isinstance(module, LoRALinear):
                torch.nn.init.normal_(module.lora_b, std=0.1)
    spec = ModelSpec(config, (update,) if adapted else (), tokenizer_digest=tokenizer.digest)
    checkpoint.save(path, model=model, spec=spec, tokenizer=tokenizer)
    return path


@pytest.mark.parametrize("config", [GPTConfig(260, **SIZES), LlamaConfig(260, **SIZES, n_kv_heads=1)])
def test_every_form_is_compared_and_what_must_be_equal_is(config: ModelConfig, tmp_path: Path) -> None:
    source = saved(config, tmp_path / "c")
    loaded = checkpoint.load(source)
    transform = Quantize(bits=4, group_size=16)
    spec = ModelSpec(config, (transform,), tokenizer_digest=loaded.tokenizer.digest)
    small = transform.apply(checkpoint.load(source).model)
    checkpoint.save(tmp_path / "int4", model=small, spec=spec, tokenizer=loaded.tokenizer)
    tokens = torch.randint(260, (37,)).tolist()
    rows = compare_forms(loaded, source, tokens, variants={"int4": tmp_path / "int4"})
    equal = {row.form: row.equal for row in rows}
    assert [*equal.values()] == [True, True, True, True, True, False]
    assert rows[-1].largest_difference > 0.01
    assert 0 < rows[-1].same_top <= 1
    assert rows[-1].kl_divergence > 0


def test_a_merged_update_is_equal_and_a_form_that_there_is_not_says_why(tmp_path: Path) -> None:
    row = compare_merged(checkpoint.load(saved(GPTConfig(260, **SIZES), tmp_path / "a", adapted=True)), [1, 2, 3])
    assert row.equal
    pruned = saved(GPTConfig(260, **SIZES, head_width=12), tmp_path / "b")
    rows = compare_forms(checkpoint.load(pruned), pruned, [5, 6, 7], variants={})
    assert [bool(row.reason) for row in rows] == [False, False, False, True, True]
    assert "do not fit a width of 32" in rows[3].reason
