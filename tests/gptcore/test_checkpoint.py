"""Checkpoints: whole or absent, verified to the bit, never unpickled; adapters beside their base."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec, TrainingState
from gptcore.errors import CheckpointError, ConfigError
from gptcore.files import file_sha256, write_json
from gptcore.models import GPT
from gptcore.tokenizer import Tokenizer, train_bpe
from gptcore.transforms import Classifier, ExtendVocabulary, LoRA, LoRALinear, Transform, adapter_tensors

Build = Callable[..., GPT]
TOKENS = torch.arange(24).view(2, 12)
FILES = (
    "model.json",
    "model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/vocab.tiktoken",
    "training.json",
    "training.safetensors",
)
SAVE_WITH_LITTLE_ROOM = """
import resource, sys
from pathlib import Path
import torch
from gptcore import checkpoint
from gptcore.errors import OutOfDiskError
from gptcore.export.hf import export_hf
source, target = Path(sys.argv[1]), Path(sys.argv[2])
model, spec, (tokenizer, _), _ = checkpoint.load(source)
for room in (100, 20_000):  # bytes a file may have: too few for the first file; too few for the weights
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    for write in (
        lambda: checkpoint.save(source, model=model, spec=spec, tokenizer=tokenizer),
        lambda: checkpoint.save(target, model=model, spec=spec, tokenizer=tokenizer),
        lambda: export_hf(source, target),
    ):
        try:
            write()
        except OutOfDiskError as error:
            print(error)
"""


@pytest.fixture
def save(gpt: Build, tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint of a tiny model with a training state."""

    def build(name: str = "c", *transforms: Transform, **changes: int) -> Path:
        model = gpt(**changes)
        spec = ModelSpec(model.config, transforms, template="alpaca", tokenizer_digest=tokenizer.digest)
        for transform in transforms:
            transform.apply(model)
        training = TrainingState({"step": 3}, {"moment": torch.randn(4)})
        checkpoint.save(tmp_path / name, model=model, spec=spec, tokenizer=tokenizer, training=training)
        return tmp_path / name

    return build


@dataclass
class Trap:
    """Makes a folder when it is unpickled."""

    path: str

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


def seal(folder: Path) -> None:
    """Give a changed checkpoint a manifest that fits, as if it had been written so."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    sizes = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": file_sha256(p)} for p in files}
    write_json(folder / "manifest.json", {"files": sizes})


@pytest.mark.parametrize("tied_head", [True, False])
def test_a_model_survives_a_checkpoint_bit_for_bit(
    gpt: Build, save: Callable[..., Path], tokenizer: Tokenizer, tied_head: bool
) -> None:
    path = save(tied_head=tied_head)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded.model(TOKENS), gpt(tied_head=tied_head)(TOKENS))
    assert (loaded.model.head.weight is loaded.model.get_parameter("token_embedding.weight")) is tied_head
    assert not loaded.model.training
    assert (loaded.spec.template, loaded.tokenizer.digest) == ("alpaca", tokenizer.digest)
    assert loaded.digest == file_sha256(path / "manifest.json")
    assert checkpoint.load_training(path).values == {"step": 3}


@pytest.mark.parametrize(
    "transforms",
    [
        (Classifier(labels=("a", "b")),),
        (LoRA(rank=2),),
        (ExtendVocabulary(vocab_size=304), Classifier(labels=("a", "b"), train="all"), LoRA(also_train=("head",))),
    ],
)
def test_transforms_are_replayed_and_the_same_parameters_are_trained(
    save: Callable[..., Path], gpt: Build, transforms: tuple[Transform, ...]
) -> None:
    model = gpt()
    for transform in transforms:
        transform.apply(model)
    torch.manual_seed(99)
    loaded = checkpoint.load(save("c", *transforms)).model
    assert [(n, p.shape, p.requires_grad) for n, p in model.named_parameters()] == [
        (n, p.shape, p.requires_grad) for n, p in loaded.named_parameters()
    ]


def test_loading_leaves_the_callers_random_stream_alone(save: Callable[..., Path]) -> None:
    path = save()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    checkpoint.load(path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_in_any_file_is_noticed_and_the_file_named(save: Callable[..., Path], name: str) -> None:
    path = save()
    content = bytearray((path / name).read_bytes())
    content[-3] ^= 0x04
    (path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"c/{name} does not match the sha256 in its manifest; it is damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_missing_file_is_named(save: Callable[..., Path], name: str) -> None:
    path = save()
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:-7])
    with pytest.raises(CheckpointError, match=rf"c/{name} has [\d,]+ bytes, its manifest says [\d,]+; it is damaged"):
        checkpoint.load(path)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"c/{name} is missing"):
        checkpoint.load(path)


def test_a_folder_without_a_manifest_was_never_finished(save: Callable[..., Path], tmp_path: Path) -> None:
    path = save()
    (path / "manifest.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"c has no manifest\.json: it was never finished, or is no folder of ours"
    ):
        checkpoint.load(path)
    with pytest.raises(CheckpointError, match="nowhere is not a folder; check the path"):
        checkpoint.load(tmp_path / "nowhere")


def test_a_pickle_is_never_read(save: Callable[..., Path], tmp_path: Path) -> None:
    """Unpickling the trap would make a folder; neither a .pt beside nor one in the place of weights is opened."""
    trap, sprung = tmp_path / "trap.pt", tmp_path / "sprung"
    trap.write_bytes(pickle.dumps(Trap(str(sprung))))
    path = save()
    shutil.copy(trap, path / "model.pt")
    checkpoint.load(path)
    shutil.copy(trap, path / "model.safetensors")
    seal(path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors (cannot be read|has \d+ bytes; it is damaged)"):
        checkpoint.load(path)
    assert not sprung.exists()
    pickle.loads(trap.read_bytes())
    assert sprung.exists()  # the trap works


def test_nothing_in_gptcore_can_unpickle() -> None:
    modules = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    readers = {"torch.load", "np.load", "numpy.load", "pd.read_pickle", "torch.jit.load", "torch.package"}
    found = []
    for path in Path(checkpoint.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                names = {str(node.module).split(".")[0]}
            if isinstance(node, ast.Attribute) and ast.unparse(node) in readers:
                names = modules
            found += [f"{path}:{node.lineno}" for _ in names & modules]
    assert found == []


def test_weights_that_do_not_fit_the_spec_are_refused(save: Callable[..., Path]) -> None:
    path, deeper, longer = save(), save("deeper", n_layers=3), save("longer", context_length=40)
    shutil.copy(deeper / "model.safetensors", path / "model.safetensors")
    seal(path)
    with pytest.raises(
        CheckpointError, match=r"the weights do not fit model\.json; missing \[\], left over \['blocks\.2"
    ):
        checkpoint.load(path)
    shutil.copy(longer / "model.safetensors", path / "model.safetensors")
    seal(path)
    message = r"position_embedding\.weight has shape \(40, 16\), the model needs \(32, 16\)"
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path)


def test_another_tokenizer_in_the_folder_is_refused(save: Callable[..., Path], tokenizer: Tokenizer) -> None:
    path, other = save(), train_bpe(["something else entirely"], vocab_size=262)
    other.save(path / "tokenizer")
    seal(path)
    message = rf"written for tokenizer {tokenizer.digest[:12]}, but the folder holds bpe-262 {other.digest[:12]}"
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path)


def test_an_unreadable_spec_and_an_unknown_transform_are_told(save: Callable[..., Path]) -> None:
    path = save("c", LoRA(rank=2))
    spec = json.loads((path / "model.json").read_text())
    spec["transforms"][0]["kind"] = "LoRa"
    (path / "model.json").write_text(json.dumps(spec))
    seal(path)
    with pytest.raises(ConfigError, match=r"unknown Transform kind 'LoRa'; did you mean 'LoRA'\?"):
        checkpoint.load(path)
    (path / "model.json").write_text("{")
    seal(path)
    with pytest.raises(CheckpointError, match=r"model\.json cannot be read"):
        checkpoint.load(path)


def test_a_checkpoint_without_training_state_cannot_be_resumed_from(save: Callable[..., Path]) -> None:
    path = save()
    (path / "training.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        checkpoint.load_training(path)


def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_else(save: Callable[..., Path]) -> None:
    path = save()
    digest = checkpoint.load(path).digest
    command = [sys.executable, "-c", SAVE_WITH_LITTLE_ROOM, str(path), str(path.with_name("new"))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    told = result.stdout.splitlines()
    assert len(told) == 6
    for line, name in zip(told, ["c", "new", "new"] * 2, strict=True):
        assert re.match(rf"{path.parent}/{name}(\.tmp-\d+/\S+)? could not be written: ", line), line
        assert "nothing half-written was kept" in line
    assert [entry.name for entry in path.parent.iterdir()] == ["c"]
    assert checkpoint.load(path).digest == digest


# --- adapters


def adapted(gpt: Build, *transforms: Transform) -> GPT:
    model = gpt()
    for transform in transforms:
        transform.apply(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_an_adapter_on_its_base_equals_the_whole_checkpoint(
    gpt: Build, save: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    transforms = (Classifier(labels=("a", "b"), train="all"), LoRA(rank=2, targets=("qkv",), also_train=("head",)))
    base, model = save("base"), adapted(gpt, *transforms)
    spec = ModelSpec(model.config, transforms, tokenizer_digest=tokenizer.digest)
    checkpoint.save(tmp_path / "whole", model=model, spec=spec, tokenizer=tokenizer)
    checkpoint.save_adapter(tmp_path / "adapter", tensors=adapter_tensors(model), spec=spec)
    together, whole = checkpoint.load_adapter(tmp_path / "adapter", base), checkpoint.load(tmp_path / "whole")
    assert torch.equal(together.model(TOKENS), whole.model(TOKENS))
    assert together.spec == whole.spec
    sizes = [(tmp_path / name).stat().st_size for name in ("adapter/adapter.safetensors", "whole/model.safetensors")]
    assert sizes[0] < sizes[1] / 5


def test_an_adapter_with_new_special_tokens_brings_its_tokenizer(
    gpt: Build, save: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    longer = tokenizer.with_special_tokens(["<|end|>"])
    transforms = (ExtendVocabulary(vocab_size=301), LoRA(rank=2, also_train=("token_embedding",)))
    base, model = save("base"), adapted(gpt, *transforms)
    spec = ModelSpec(gpt().config, transforms, tokenizer_digest=longer.digest)
    tensors = adapter_tensors(model)
    checkpoint.save_adapter(tmp_path / "adapter", tensors=tensors, spec=spec, tokenizer=longer)
    together = checkpoint.load_adapter(tmp_path / "adapter", base)
    assert torch.equal(together.model(TOKENS), model.eval()(TOKENS))
    assert together.tokenizer.special_tokens["<|end|>"] == 300
    checkpoint.save_adapter(tmp_path / "without", tensors=tensors, spec=spec)
    with pytest.raises(CheckpointError, match="save the adapter with its tokenizer"):
        checkpoint.load_adapter(tmp_path / "without", base)


def test_an_adapter_of_another_base_is_refused(
    gpt: Build, save: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = adapted(gpt, LoRA(rank=2))
    spec = ModelSpec(model.config, (LoRA(rank=2),), tokenizer_digest=tokenizer.digest)
    checkpoint.save_adapter(tmp_path / "adapter", tensors=adapter_tensors(model), spec=spec)
    with pytest.raises(CheckpointError, match="adapter was made from another model than"):
        checkpoint.load_adapter(tmp_path / "adapter", save("deeper", n_layers=3))
    few = {name: t for name, t in adapter_tensors(model).items() if "lora_a" in name}
    checkpoint.save_adapter(tmp_path / "half", tensors=few, spec=spec)
    with pytest.raises(CheckpointError, match="does not hold exactly the trained tensors of its spec"):
        checkpoint.load_adapter(tmp_path / "half", save())
    content = bytearray((tmp_path / "adapter" / "adapter.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "adapter" / "adapter.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors does not match the sha256"):
        checkpoint.load_adapter(tmp_path / "adapter", save())


def test_loading_an_adapter_marks_only_its_own_weights_as_trained(
    gpt: Build, save: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = adapted(gpt, LoRA(rank=2))
    spec = ModelSpec(model.config, (LoRA(rank=2),), tokenizer_digest=tokenizer.digest)
    checkpoint.save_adapter(tmp_path / "adapter", tensors=adapter_tensors(model), spec=spec)
    loaded = checkpoint.load_adapter(tmp_path / "adapter", save()).model
    assert any(isinstance(module, LoRALinear) for module in loaded.modules())
    assert all("lora_" in name for name, p in loaded.named_parameters() if p.requires_grad)
