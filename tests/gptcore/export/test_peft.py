"""Adapters to and from the library peft: the same logits on the same base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.errors import CheckpointError, ConfigError
from gptcore.export.hf import export_hf
from gptcore.export.peft import export_peft, import_peft
from gptcore.transforms import LoRA, LoRALinear

Build = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def adapted(portable: Build, tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint with an update that changes the logits."""

    def build(family: str) -> Path:
        sizes = {"n_kv_heads": 2} if family == "llama" else {}
        loaded = checkpoint.load(portable(family, **sizes))
        update = LoRA(rank=3, alpha=7.0)
        model = update.apply(loaded.model)
        for module in model.modules():
            if isinstance(module, LoRALinear):
                torch.nn.init.normal_(module.lora_b, std=0.1)
        spec = ModelSpec(loaded.spec.model, transforms=(update,), tokenizer_digest=loaded.tokenizer.digest)
        checkpoint.save(tmp_path / "adapted", model=model, spec=spec, tokenizer=loaded.tokenizer)
        return tmp_path / "adapted"

    return build


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_peft_gives_the_logits_of_the_adapted_model_and_back(
    portable: Build, adapted: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    source = adapted(family)
    folder = export_peft(source, tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    ours, tokens = checkpoint.load(source).model, torch.randint(300, (2, 20))
    plain = checkpoint.load(tmp_path / f"{family}-checkpoint").model
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, ours(tokens), atol=1e-4, rtol=0)
        assert float((plain(tokens) - ours(tokens)).abs().max()) > 0.1
    theirs.save_pretrained(tmp_path / "theirs")
    back = checkpoint.load(import_peft(tmp_path / "theirs", tmp_path / f"{family}-checkpoint", tmp_path / "back"))
    assert torch.allclose(back.model(tokens), ours(tokens), atol=1e-5)
    assert back.spec == checkpoint.load(source).spec


def test_an_adapter_of_some_of_llamas_matrices_is_stacked(portable: Build, tmp_path: Path) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    source = portable("llama", n_kv_heads=2)
    base = transformers.AutoModelForCausalLM.from_pretrained(export_hf(source, tmp_path / "hf"))
    config = peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False
    )
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = checkpoint.load(import_peft(tmp_path / "theirs", source, tmp_path / "back")).model
    tokens = torch.randint(300, (2, 20))
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, ours(tokens), atol=1e-4, rtol=0)


def test_what_is_no_plain_adapter_is_refused(portable: Build, adapted: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 0 adapters; a folder for peft is of exactly one"):
        export_peft(portable(), tmp_path / "adapter")
    folder = export_peft(adapted("gpt2"), tmp_path / "adapter")
    text = (folder / "adapter_config.json").read_text()
    for old, new, message in (
        ('"use_rslora": false', '"use_rslora": true', "use_rslora is True; only False can be imported"),
        ('"r": 3', '"r": "x"', "r, lora_alpha and lora_dropout are 'x'"),
        ("{", "", "cannot be read"),
    ):
        (folder / "adapter_config.json").write_text(text.replace(old, new))
        with pytest.raises(CheckpointError, match=message):
            import_peft(folder, tmp_path / "gpt2-checkpoint", tmp_path / "back")
