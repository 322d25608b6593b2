"""A family that lives only here is exported, imported, adapted and pruned as far as it says it can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptcore import checkpoint
from gptcore.compress import prunable
from gptcore.errors import CheckpointError, ConfigError
from gptcore.export.gguf import export_gguf, import_gguf
from gptcore.export.gguf_file import read_gguf
from gptcore.export.gguf_graph import gguf_logits
from gptcore.export.hf import export_hf, import_hf
from gptcore.export.peft import export_peft
from gptcore.kernels import is_prepared, prepare_for_inference
from gptcore.models import Family, families, family_of, find_family, register_family
from gptcore.models.gpt import FAMILY as GPT2
from gptcore.transforms import Classifier, LoRA
from tests.house.conftest import SIZES
from tests.house.families import BARE, TAIL, Bare, BareConfig, Knot, KnotConfig, StrangeConfig, Tail, TailConfig

Saved = Callable[..., Path]
TOKENS = torch.arange(20)[None] * 13 % 280


def test_it_is_found_by_exactly_its_classes() -> None:
    assert {TAIL, BARE, GPT2} <= set(families())
    assert family_of(TailConfig(**SIZES)) is TAIL
    assert family_of(TailConfig(**SIZES).build()) is TAIL
    assert find_family(StrangeConfig(**SIZES).build()) is None
    with pytest.raises(ConfigError, match=r"no family of models is registered for Strange \(known: GPT, Llama"):
        family_of(StrangeConfig(**SIZES).build())


def test_it_goes_to_transformers_form_and_back(saved: Saved, tmp_path: Path) -> None:
    source = saved(config=TailConfig(**SIZES))
    back = checkpoint.load(import_hf(export_hf(source, tmp_path / "hf"), tmp_path / "back"))
    assert type(back.model) is Tail
    assert torch.allclose(back.model(TOKENS), checkpoint.load(source).model(TOKENS), atol=1e-5)
    export_peft(saved(LoRA(rank=2), config=TailConfig(**SIZES)), tmp_path / "peft")


def test_its_gguf_file_is_held_against_its_own_graph(saved: Saved, tmp_path: Path) -> None:
    source = saved(config=KnotConfig(**SIZES))
    written = export_gguf(source, tmp_path / "gguf", packing="f32")
    assert written.agreement.is_equal
    read = read_gguf(written.file)
    assert read.fields["general.architecture"] == "knot"
    back = checkpoint.load(import_gguf(written.file, tmp_path / "back"))
    assert type(back.model) is Knot
    assert torch.allclose(gguf_logits(read, TOKENS[0].tolist()), back.model(TOKENS)[0], atol=1e-4)
    with pytest.raises(CheckpointError, match="the file describes a 'slip' model; only gpt2, llama, knot can be"):
        gguf_logits(replace(read, fields={**read.fields, "general.architecture": "slip"}), [1])


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (TailConfig(**SIZES), "the family 'tail' has no form in GGUF; its Family has no GGUFForm"),
        (BareConfig(**SIZES), "the family 'bare' has no form in GGUF; its Family has no GGUFForm"),
        (StrangeConfig(**SIZES), "no family of models is registered for Strange"),
    ],
)
def test_a_form_that_it_does_not_have_is_refused(
    saved: Saved, tmp_path: Path, config: TailConfig, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        export_gguf(saved(config=config), tmp_path / "gguf")


def test_transformers_form_and_a_classifiers_are_each_refused_where_there_is_none(saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the family 'bare' has no form in transformers"):
        export_hf(saved(config=BareConfig(**SIZES)), tmp_path / "hf")
    with pytest.raises(ConfigError, match="a classifier of the family Tail has no form in transformers"):
        export_hf(saved(Classifier(labels=("a", "b")), config=TailConfig(**SIZES)), tmp_path / "hf")


def test_it_is_pruned_only_where_it_says_that_it_can_be() -> None:
    with pytest.raises(ConfigError, match="TailConfig describes a model that cannot be pruned; only GPTConfig can"):
        prunable(TailConfig(**SIZES).build())


def test_the_kernels_compute_its_layers_and_not_its_blocks() -> None:
    """Its layout is not said to be GPT-2's, so that only what is plain is handed over."""
    model = prepare_for_inference(TailConfig(**SIZES).build().eval())
    assert is_prepared(model)
    assert "features" not in vars(model)


@pytest.mark.parametrize(
    ("family", "taken"),
    [
        (replace(TAIL, name="other"), "the class Tail, the class TailConfig, the model_type tail belongs to 'tail'"),
        (Family(name="tail", config=StrangeConfig, network=Bare), "belongs to 'tail' already"),
        (Family(name="gpt2", config=StrangeConfig, network=Bare), "the name gpt2 belongs to 'gpt2' already"),
        (replace(GPT2, name="new", config=StrangeConfig, network=Tail), "the architecture gpt2, the model_type gpt2"),
    ],
)
def test_equal_names_are_refused(family: Family, taken: str) -> None:
    with pytest.raises(ConfigError, match=taken):
        register_family(family)
    assert register_family(TAIL) is TAIL
    assert len([each for each in families() if each.name in ("tail", "other", "new")]) == 1


def test_a_folder_of_a_family_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="describes a 'bert' model; only gpt2, llama"):
        import_hf(tmp_path, tmp_path / "out")
