"""An adapter that lives only here is trained, kept, merged, and exported as one of the tree, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptcore import checkpoint
from gptcore.data import TokenWindows, write_shards
from gptcore.errors import CheckpointError, ConfigError, ExportMismatch
from gptcore.export.exporter import Job, compare_written
from gptcore.export.gguf import export_gguf
from gptcore.export.hf import export_hf, import_hf
from gptcore.export.peft import PeftExporter, export_peft, import_peft
from gptcore.files import read_json_object, write_json
from gptcore.objectives import NextToken
from gptcore.run import Run
from gptcore.tokenizer import Tokenizer
from gptcore.train import TrainConfig
from gptcore.train.logger import MemoryLogger
from gptcore.transforms import NF4, LoRA, Quantize, adapter_tensors
from tests.house.adapters import DoRA, DoRALinear, Homeless
from tests.house.conftest import TEXT

Saved = Callable[..., Path]
TOKENS = torch.arange(20)[None] * 13 % 280
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def logits(path: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = checkpoint.load(path).model(TOKENS)
    return found


def test_it_is_trained_and_its_adapter_alone_fits_the_base(saved: Saved, tokenizer: Tokenizer, tmp_path: Path) -> None:
    base = saved()
    write_shards([TEXT * 20], tokenizer=tokenizer, folder=tmp_path / "tokens")
    run = Run(
        init=base,
        transforms=(DoRA(),),
        data=TokenWindows(folder=tmp_path / "tokens", context_length=16),
        objective=NextToken(),
        tokenizer=base / "tokenizer",
        train=TrainConfig(steps=4, batch_size=4, eval_every=4, log_every=1, checkpoint_every=4),
    )
    log = MemoryLogger()
    done = run.execute(tmp_path / "run", log)
    loaded = checkpoint.load(done.path)
    moved = adapter_tensors(loaded.model)
    assert {name.rpartition(".")[2] for name in moved} == {"lora_a", "lora_b", "magnitude"}
    assert float((logits(done.path) - logits(base)).abs().max()) > 1e-4
    checkpoint.save_adapter(tmp_path / "adapter", tensors=moved, spec=loaded.spec)
    assert torch.equal(checkpoint.load_adapter(tmp_path / "adapter", base).model(TOKENS), loaded.model(TOKENS))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_it_is_merged_into_what_is_exported_and_quantized(saved: Saved, tmp_path: Path, family: str) -> None:
    source = saved(DoRA(), config=family)
    back = import_hf(export_hf(source, tmp_path / "hf"), tmp_path / "back")
    assert torch.allclose(logits(back), logits(source), atol=1e-4)
    assert export_gguf(source, tmp_path / "gguf", packing="f32").agreement.is_equal
    stored = Quantize().apply(checkpoint.load(source).model)
    assert not any(isinstance(module, DoRALinear) for module in stored.modules())
    assert torch.allclose(stored(TOKENS), logits(source), atol=0.5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_peft_computes_what_it_computes_and_it_comes_back(saved: Saved, tmp_path: Path, family: str) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    source = saved(DoRA(), config=family)
    folder = export_peft(source, tmp_path / "peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        assert torch.allclose(theirs(TOKENS).logits, logits(source), atol=1e-4, rtol=0)
    plain = import_hf(folder / "base", tmp_path / "plain")
    back = import_peft(folder, plain, tmp_path / "back")
    assert torch.allclose(logits(back), logits(source), atol=1e-5)
    assert checkpoint.read_spec(back).transforms == (DoRA(),)


def test_one_that_peft_has_no_form_for_is_refused_and_exported_merged(saved: Saved, tmp_path: Path) -> None:
    source = saved(Homeless())
    with pytest.raises(ConfigError, match="Homeless has no form in peft; export it with --to hf, merged"):
        export_peft(source, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
    export_hf(source, tmp_path / "hf")


@pytest.mark.parametrize("adapter", [LoRA(rank=2), DoRA()])
@pytest.mark.parametrize("changed", ["alpha", "weights", "base"])
def test_an_adapter_that_is_read_back_as_another_is_not_published(
    saved: Saved, tmp_path: Path, adapter: LoRA | DoRA, changed: str
) -> None:
    source = saved(adapter)
    folder = export_peft(source, tmp_path / "peft")
    exporter, job = PeftExporter(), Job(source, str(folder), checkpoint.load(source), say=print)
    wanted = exporter.outputs(job)
    compare_written(exporter, job, folder, wanted)
    if changed == "alpha":
        config = read_json_object(folder / "adapter_config.json", CheckpointError)
        write_json(folder / "adapter_config.json", {**config, "lora_alpha": 2 * config["lora_alpha"]})
    elif changed == "weights":
        (folder / "adapter_model.safetensors").write_bytes(b"")
    else:
        config = read_json_object(folder / "base/config.json", CheckpointError)
        write_json(folder / "base/config.json", {**config, "n_head": 1})
    with pytest.raises(ExportMismatch, match=r"than the model|is not what was meant"):
        compare_written(exporter, job, folder, wanted)


@pytest.mark.parametrize("embedding", ["fp32", "nf4"])
def test_an_adapter_on_codes_is_exported_merged_and_not_as_an_adapter(
    saved: Saved, tmp_path: Path, embedding: str
) -> None:
    source = saved(NF4(block_size=8, embedding=embedding), LoRA(rank=2))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"is stored as nf4, so exporting .* is not possible"):
        export_peft(source, tmp_path / "peft")
    if embedding == "nf4":
        with pytest.raises(ConfigError, match="token_embedding is stored as nf4, so exporting"):
            export_hf(source, tmp_path / "hf")
    else:
        back = import_hf(export_hf(source, tmp_path / "hf"), tmp_path / "back")
        assert torch.allclose(logits(back), logits(source), atol=1e-4)
