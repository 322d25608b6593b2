"""Starting weights by name: folders of both kinds, and a hub that cannot be reached."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from flows.sources.hub import REVISIONS, local_checkpoint, model_folder, starting_digest
from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.errors import ConfigError, DataError
from gptcore.export.hf import export_hf
from gptcore.files import MANIFEST
from gptcore.models import GPTConfig
from gptcore.tokenizer import train_bpe


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "checkpoint"
    tokenizer = train_bpe(["the model reads the text and the text reads the model"], vocab_size=280)
    model = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=16, width=8, n_layers=1, n_heads=2)
    spec = ModelSpec(model, tokenizer_digest=tokenizer.digest)
    checkpoint.save(folder, model=spec.build(), spec=spec, tokenizer=tokenizer)
    return folder


def foreign(trained: Path, folder: Path) -> None:
    """A folder as transformers writes it: without a manifest."""
    export_hf(trained, folder)
    (folder / MANIFEST).unlink()


def test_what_was_exported_can_be_started_from(trained: Path, tmp_path: Path) -> None:
    export_hf(trained, tmp_path / "hub")
    imported = local_checkpoint(str(tmp_path / "hub"), tmp_path / "cache")
    ours, theirs = (checkpoint.load(path).model.state_dict() for path in (trained, imported))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_folder_is_taken_as_it_is(trained: Path, tmp_path: Path) -> None:
    assert local_checkpoint(str(trained), tmp_path) == trained
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_hub_s_format_is_imported_once_and_again_when_it_has_changed(
    trained: Path, tmp_path: Path
) -> None:
    cache, folder = tmp_path / "cache", tmp_path / "hub"
    foreign(trained, folder)
    first = local_checkpoint(str(folder), cache)
    assert checkpoint.load(first).model.state_dict().keys() == checkpoint.load(trained).model.state_dict().keys()
    made = first.stat().st_mtime_ns
    assert local_checkpoint(str(folder), cache) == first
    assert first.stat().st_mtime_ns == made
    config = folder / "config.json"
    changed = config.read_text().replace('"n_positions": 16', '"n_positions": 16 ')
    assert changed != config.read_text()
    config.write_text(changed)
    assert local_checkpoint(str(folder), cache) != first


def test_folders_of_one_name_are_not_confused(trained: Path, tmp_path: Path) -> None:
    folders = [tmp_path / where / "same" / "model" for where in ("one", "two")]
    for folder in folders:
        foreign(trained, folder)
    weights = folders[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    first, second = (local_checkpoint(str(folder), tmp_path / "cache") for folder in folders)
    assert first != second


def test_a_model_is_found_where_a_user_points(trained: Path, tmp_path: Path) -> None:
    cache, stage = tmp_path / "cache", tmp_path / "pretrain/key"
    shutil.copytree(trained, stage / "run/checkpoint")
    assert model_folder(str(trained), cache) == trained
    assert model_folder(str(stage), cache) == stage / "run/checkpoint"
    assert model_folder(str(tmp_path / "none"), cache) == tmp_path / "none"
    foreign(trained, tmp_path / "hub")
    assert checkpoint.load(model_folder(str(tmp_path / "hub"), cache)).spec == checkpoint.load(trained).spec
    shutil.copytree(trained, stage / "int8")
    with pytest.raises(ConfigError, match=r"key holds several checkpoints; give one of .*/int8, .*/run/checkpoint"):
        model_folder(str(stage), cache)
    adapter = tmp_path / "lora/adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter.safetensors").touch()
    with pytest.raises(ConfigError, match=r"adapter is an adapter alone; give the checkpoint beside it, .*/checkpoint"):
        model_folder(str(adapter), cache)


def test_the_name_of_starting_weights_follows_their_content(trained: Path, tmp_path: Path) -> None:
    pinned = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
    assert starting_digest("hf:openai-community/gpt2") == f"openai-community/gpt2@{pinned}"
    assert starting_digest("hf:someone/other@abc") == "someone/other@abc"
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    assert starting_digest(str(copy)) == starting_digest(str(trained))
    loaded = checkpoint.load(copy)
    loaded.model.get_parameter("token_embedding.weight").data[0, 0] += 1
    checkpoint.save(copy, model=loaded.model, spec=loaded.spec, tokenizer=loaded.tokenizer)
    assert starting_digest(str(copy)) != starting_digest(str(trained))


def test_a_missing_folder_is_refused_with_what_could_be_given(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        local_checkpoint(str(tmp_path / "none"), tmp_path)
    assert f"--init {tmp_path / 'none'}: no such folder; give a checkpoint folder" in str(refused.value)


def test_a_hub_out_of_reach_is_told_with_repository_and_pinned_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError) as refused:
        local_checkpoint("hf:openai-community/gpt2", tmp_path)
    told = str(refused.value)
    assert told.startswith(f"openai-community/gpt2@{REVISIONS['openai-community/gpt2']} could not be fetched")
    assert told.endswith("or download the folder elsewhere and give its path by --init")


def test_every_known_repository_is_pinned_to_a_commit() -> None:
    assert all(len(revision) == 40 and set(revision) <= set("0123456789abcdef") for revision in REVISIONS.values())
