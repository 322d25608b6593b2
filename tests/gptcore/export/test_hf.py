"""Folders for transformers and from it: same logits, same token ids; random weights, nothing downloaded."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.data.templates import template_by_name
from gptcore.errors import CheckpointError, ConfigError
from gptcore.export.hf import export_hf, import_hf
from gptcore.models import GPT
from gptcore.readers import TextReader
from gptcore.tokenizer import Tokenizer
from gptcore.transforms import Classifier, ExtendVocabulary, LoRA, LoRALinear, Quantize, Transform

Build = Callable[..., GPT]
TEXTS = ["The keeper counted the ships.", "  two  spaces\n\nand lines\t", "naïve café 東京 🙂", "don't we'll 1234", ""]


@pytest.fixture
def saved(gpt: Build, tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint of a tiny model with the given transforms and sizes."""

    def build(*transforms: Transform, **changes: Any) -> Path:
        model = gpt(**changes)
        spec = ModelSpec(model.config, transforms, tokenizer_digest=tokenizer.digest)
        for transform in transforms:
            transform.apply(model)
        for module in model.modules():
            if isinstance(module, LoRALinear):
                torch.nn.init.normal_(module.lora_b, std=0.1)
        checkpoint.save(tmp_path / "c", model=model, spec=spec, tokenizer=tokenizer)
        return tmp_path / "c"

    return build


def logits_of(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    transformers = pytest.importorskip("transformers")
    with torch.no_grad():
        logits: torch.Tensor = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()(tokens).logits
    return logits


@pytest.mark.parametrize("tied_head", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_what_we_export_gives_the_same_logits_in_transformers(
    saved: Callable[..., Path], tmp_path: Path, tied_head: bool, qkv_bias: bool
) -> None:
    source = saved(tied_head=tied_head, qkv_bias=qkv_bias)
    folder, tokens = export_hf(source, tmp_path / "hf"), torch.randint(300, (2, 32))
    ours = checkpoint.load(source).model(tokens).detach()
    assert torch.allclose(logits_of(folder, tokens), ours, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tied_head", [True, False])
def test_what_transformers_wrote_gives_the_same_logits_here(
    tokenizer: Tokenizer, tmp_path: Path, tied_head: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=300, n_positions=24, n_embd=16, n_layer=3, n_head=4, tie_word_embeddings=tied_head
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path / "hf")
    loaded = checkpoint.load(import_hf(tmp_path / "hf", tmp_path / "c", tokenizer=tokenizer))
    tokens = torch.randint(300, (2, 24))
    with torch.no_grad():
        assert torch.allclose(loaded.model(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)
    assert loaded.spec.model == loaded.model.config
    assert loaded.tokenizer.digest == tokenizer.digest


def test_the_tokenizers_files_give_the_same_ids_in_transformers(
    saved: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path, page: str
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = export_hf(saved(), tmp_path / "hf")
    theirs = transformers.GPT2Tokenizer.from_pretrained(folder)
    for text in [*TEXTS, page]:
        assert theirs(text)["input_ids"] == tokenizer.encode(text), text
        assert theirs.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text
    assert theirs.eos_token_id == tokenizer.end_of_text
    assert len(theirs) == tokenizer.vocab_size


def test_a_tokenizer_that_transformers_wrote_gives_the_same_ids_here(
    saved: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = export_hf(saved(), tmp_path / "hf")
    transformers.GPT2Tokenizer.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    transformers.GPT2LMHeadModel.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    assert "vocab.json" not in {path.name for path in (tmp_path / "theirs").iterdir()}
    loaded = checkpoint.load(import_hf(tmp_path / "theirs", tmp_path / "back"))
    assert loaded.tokenizer.digest == tokenizer.digest


def test_a_model_without_a_tokenizer_is_taken_for_gpt_2_by_its_vocabulary_alone(
    tmp_path: Path, shared_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transformers = pytest.importorskip("transformers")
    for n_words, folder in ((50_257, tmp_path / "gpt2"), (300, tmp_path / "other")):
        config = transformers.GPT2Config(vocab_size=n_words, n_positions=8, n_embd=4, n_layer=1, n_head=1)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    assert checkpoint.load(import_hf(tmp_path / "gpt2", tmp_path / "c")).tokenizer.name == "gpt2"
    assert any("has no tokenizer; its 50257 tokens are taken for GPT-2's" in text for text in caplog.messages)
    with pytest.raises(
        CheckpointError, match=r"other has no tokenizer, neither .*; save it there, too: tokenizer\.save"
    ):
        import_hf(tmp_path / "other", tmp_path / "d")


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"model": {"type": "WordPiece"}, "pre_tokenizer": BYTE_LEVEL},
            r"another tokenizer .* \(model WordPiece, pre-",
        ),
        ({"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Metaspace"}}, r"pre-tokenizer Metaspace\); only that"),
        (
            {"model": {"type": "BPE"}, "pre_tokenizer": BYTE_LEVEL},
            r"cannot be read as a tokenizer \(KeyError: 'merges'",
        ),
        ({}, r"cannot be read as a tokenizer \(KeyError: 'model'"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(
    saved: Callable[..., Path], tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    folder = export_hf(saved(), tmp_path / "hf")
    for name in ("manifest.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        import_hf(folder, tmp_path / "back")


def test_an_export_replaces_an_export_and_nothing_else(saved: Callable[..., Path], tmp_path: Path) -> None:
    source, folder = saved(), tmp_path / "hf"
    folder.mkdir()
    export_hf(source, folder)
    export_hf(source, folder)
    (folder / "notes.txt").write_text("mine")
    for place in (folder, source, tmp_path, folder / "notes.txt"):
        with pytest.raises(
            ConfigError, match=f"{place.name} exists and is not an earlier export, so it is not replaced"
        ):
            export_hf(source, place)
    assert (folder / "notes.txt").read_text() == "mine"
    checkpoint.load(source)


def test_model_and_tokenizer_survive_the_way_there_and_back(saved: Callable[..., Path], tmp_path: Path) -> None:
    source = saved(tied_head=False)
    before = checkpoint.load(source)
    after = checkpoint.load(import_hf(export_hf(source, tmp_path / "hf"), tmp_path / "back"))
    assert after.tokenizer.digest == before.tokenizer.digest
    assert after.spec == before.spec
    tokens = torch.randint(300, (1, 9))
    assert torch.equal(after.model(tokens), before.model(tokens))


def test_a_lora_update_is_merged_and_new_rows_go_along(saved: Callable[..., Path], tmp_path: Path) -> None:
    source = saved(ExtendVocabulary(vocab_size=304), LoRA(rank=2))
    tokens = torch.randint(304, (1, 9))
    folder = export_hf(source, tmp_path / "hf")
    ours = checkpoint.load(source).model(tokens).detach()
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 304
    back = checkpoint.load(import_hf(folder, tmp_path / "back")).model(tokens)
    assert torch.allclose(back, ours, atol=1e-5)
    assert not any("lora" in name for name in load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("transform", [Quantize(), Quantize(bits=4, group_size=8)])
def test_a_quantized_model_is_not_exported(saved: Callable[..., Path], tmp_path: Path, transform: Transform) -> None:
    with pytest.raises(ConfigError, match=r"stored as int\d, so exporting .* is not possible: the model is quantized"):
        export_hf(saved(transform), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("tied_head", [True, False])
def test_a_classifier_gives_the_same_logits_and_names_in_transformers(
    saved: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path, tied_head: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    source = saved(Classifier(labels=("ham", "spam", "news")), tied_head=tied_head)
    before = checkpoint.load(source)
    with torch.no_grad():
        before.model.head.bias.copy_(torch.tensor([0.5, -2.0, 1.0]))
    checkpoint.save(source, model=before.model, spec=before.spec, tokenizer=before.tokenizer)
    folder = export_hf(source, tmp_path / "hf")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert type(theirs).__name__ == "GPT2ForSequenceClassification"
    assert theirs.config.id2label == {0: "ham", 1: "spam", 2: "news"}
    batch = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        told = theirs(**batch).logits
        for text, row in zip(TEXTS, told, strict=True):
            tokens = torch.tensor([[*tokenizer.encode(text), tokenizer.end_of_text]])
            assert torch.allclose(before.model(tokens)[0, -1], row, atol=1e-4), text
    after = checkpoint.load(import_hf(folder, tmp_path / "back"))
    assert after.spec.transforms[-1].to_dict()["labels"] == ["ham", "spam", "news"]
    tokens = torch.randint(300, (2, 9))
    assert torch.allclose(after.model(tokens), before.model(tokens), atol=1e-4)


@pytest.mark.parametrize(
    ("reader", "fits"),
    [
        (TextReader("head"), True),
        (TextReader("tail"), True),
        (TextReader("tail", longest=9), True),
        (TextReader("tail", end_token=False), True),
        (TextReader("head+tail"), False),
    ],
)
def test_transformers_cuts_a_long_text_as_the_classifier_does_or_not_at_all(
    saved: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path, reader: TextReader, fits: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    source = saved(Classifier(labels=("ham", "spam")))
    loaded = checkpoint.load(source)
    spec = dataclasses.replace(loaded.spec, reader=reader)
    checkpoint.save(source, model=loaded.model, spec=spec, tokenizer=loaded.tokenizer)
    folder = export_hf(source, tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text, length = "A long text about ships and tides. " * 40, loaded.model.config.context_length
    wanted = reader.read(text, tokenizer=tokenizer, context_length=length).ids.tolist()
    ids = theirs(text, truncation=True)["input_ids"] if fits else theirs(text)["input_ids"]
    assert (ids == wanted) is fits
    assert fits or len(ids) > length
    assert checkpoint.read_spec(import_hf(folder, tmp_path / "back")).reader == (reader if fits else TextReader())


def test_a_llama_gives_the_same_logits_in_transformers_and_back(portable: Callable[..., Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for n_kv_heads, tied_head in ((4, True), (2, False), (1, True)):
        source = portable("llama", n_kv_heads=n_kv_heads, tied_head=tied_head, rope_base=1000.0, template="short")
        folder = export_hf(source, tmp_path / "hf")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        assert type(theirs).__name__ == "LlamaForCausalLM"
        loaded, tokens = checkpoint.load(source), torch.randint(300, (2, 48))
        with torch.no_grad():
            assert torch.allclose(theirs(tokens).logits, loaded.model(tokens), atol=1e-4, rtol=0)
        theirs.save_pretrained(tmp_path / "theirs")
        back = checkpoint.load(import_hf(tmp_path / "theirs", tmp_path / "back", tokenizer=loaded.tokenizer))
        assert back.spec.model == loaded.spec.model
        assert torch.equal(back.model(tokens), loaded.model(tokens))


def test_the_fast_tokenizer_and_the_chat_template_are_those_of_the_prompt_style(
    portable: Callable[..., Path], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    style = template_by_name("chatml")
    source = portable(template="chatml", words=style.special_tokens)
    folder = export_hf(source, tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.is_fast
    assert theirs.eos_token == style.end
    ours = checkpoint.load(source).tokenizer
    messages = [{"role": "user", "content": "Count the ships."}]
    assert theirs.apply_chat_template(messages, tokenize=False) == style.render_prompt("Count the ships.")
    told = theirs.apply_chat_template(messages, return_dict=False)
    assert list(told) == style.encode_prompt("Count the ships.", tokenizer=ours)
    system = [{"role": "system", "content": "Be brief."}, *messages, {"role": "assistant", "content": "Four."}]
    assert theirs.apply_chat_template(system, tokenize=False) == (
        style.render_prompt("Be brief.\n\nCount the ships.") + "Four." + style.end
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.json", "merges.txt"])
def test_a_missing_file_is_named(saved: Callable[..., Path], tmp_path: Path, name: str) -> None:
    folder = export_hf(saved(), tmp_path / "hf")
    (folder / "manifest.json").unlink()
    (folder / name).unlink()
    if name == "vocab.json":
        (folder / "tokenizer.json").unlink()  # which would do in its place
    with pytest.raises(CheckpointError, match=rf"hf/{name} cannot be read: .*No such file"):
        import_hf(folder, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", r"config\.json cannot be read"),
        ("config.json", b"[]", r"config\.json does not hold a JSON object"),
        ("config.json", b'{"model_type": "bert"}', "describes a 'bert' model; only gpt2, llama"),
        ("model.safetensors", b"\x00" * 50, r"model\.safetensors cannot be read"),
        ("vocab.json", b'{"a": 0}', r"merges\.txt makes .*, which vocab\.json does not have"),
        ("vocab.json", b"\xff\xfe", r"vocab\.json cannot be read"),
        ("merges.txt", b"\xff\xfe\xff", r"merges\.txt cannot be read"),
    ],
)
def test_a_damaged_file_is_named(
    saved: Callable[..., Path], tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    folder = export_hf(saved(), tmp_path / "hf")
    (folder / "manifest.json").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        import_hf(folder, tmp_path / "back")


def test_an_exported_folder_is_verified_by_its_manifest(saved: Callable[..., Path], tmp_path: Path) -> None:
    """safetensors itself does not notice a flipped byte."""
    folder = export_hf(saved(), tmp_path / "hf")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    load_file(folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors does not match the sha256 .*delete manifest\.json if"
    ):
        import_hf(folder, tmp_path / "back")
    (folder / "manifest.json").unlink()
    import_hf(folder, tmp_path / "back")


def test_a_tokenizer_with_more_words_than_the_model_is_refused(
    saved: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = export_hf(saved(), tmp_path / "hf")
    larger = tokenizer.with_special_tokens(["<|end|>"])
    with pytest.raises(CheckpointError, match="expected a tokenizer of 300 tokens, as the model has, got 301"):
        import_hf(folder, tmp_path / "back", tokenizer=larger)


def test_a_missing_weight_is_named(saved: Callable[..., Path], tmp_path: Path) -> None:
    source = export_hf(saved(), tmp_path / "hf")
    folder = tmp_path / "foreign"
    shutil.copytree(source, folder)
    (folder / "manifest.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing \['transformer\.h\.1\.mlp\.c_fc\.bias'\]"):
        import_hf(folder, tmp_path / "back")
