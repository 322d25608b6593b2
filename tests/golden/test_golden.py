"""What may not change by accident: the keys of outputs, the fields and defaults of settings, the weights of a training.

`python tests/golden/test_golden.py` records them anew, unless outputs made before would be taken for current ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import pkgutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import flows
import gptcore
from flows.chain.engine import Chain
from flows.progress import progress_bar
from flows.recipes.presets import PIPELINES
from flows.recipes.resolve import resolve
from flows.settings import read_settings
from flows.stages.every import STAGES
from gptcore import checkpoint
from gptcore.config import KINDS, Config
from gptcore.data import Instructions, LabelledText, TokenWindows, write_shards
from gptcore.models import GPTConfig, LlamaConfig
from gptcore.objectives import Classify, Distill, NextToken
from gptcore.run import Run
from gptcore.tokenizer import train_bpe
from gptcore.train import Muon, OptimizerConfig, TrainConfig
from gptcore.train.logger import MemoryLogger
from gptcore.transforms import NF4, Classifier, LoRA

RECORD = Path(__file__).with_name("recorded.json")
TEXT = "The keeper counted the ships each evening, and wrote their number in a green book beside the lamp. " * 12
SIZES: dict[str, Any] = {"vocab_size": 300, "context_length": 32, "width": 16, "n_layers": 2, "n_heads": 2}
REQUIRED, MADE = "<required>", "<made for each value>"


def keys(preset: str) -> dict[str, str]:
    """The key of every stage of a preset, whatever libraries are installed and judges answer."""
    outside = {name: {"outside": "0" * 64} for name in STAGES}
    chain = Chain(resolve(preset), read_settings({}), None, progress_bar, outside=outside)
    return {name: chain.key(stage) for name, stage in STAGES.items()}


def kinds() -> dict[str, dict[str, Any]]:
    """Kind -> its fields with their defaults, of every configuration of the project."""
    for package in (gptcore, flows):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    own = {name: kind for name, kind in KINDS.items() if kind.__module__.partition(".")[0] in ("gptcore", "flows")}
    return {name: dict(defaults(kind)) for name, kind in sorted(own.items())}


def defaults(kind: type[Config]) -> Iterator[tuple[str, Any]]:
    """Field and default as JSON; a field that was added later is marked as silent."""
    for field in dataclasses.fields(kind):
        default: Any = MADE if field.default is dataclasses.MISSING else field.default
        if default is MADE and field.default_factory is dataclasses.MISSING:
            default = REQUIRED
        elif default is MADE:
            default = field.default_factory()  # type: ignore[misc]
        value = default.to_dict() if isinstance(default, Config) else json.loads(json.dumps(default, default=str))
        yield field.name, {"silent": value} if field.metadata.get("silent") else value


def versions() -> dict[str, str]:
    """Stage -> the version of its code."""
    return {name: stage.version for name, stage in STAGES.items()}


def stale_defaults(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Silent fields whose default differs: outputs made before would be served as made with the new one."""
    return [
        f"{kind}.{name}: {fields[name]['silent']!r} became {new['kinds'][kind][name]['silent']!r}"
        for kind, fields in old["kinds"].items()
        for name in fields.keys() & new["kinds"].get(kind, {}).keys()
        if isinstance(fields[name], dict)
        and "silent" in fields[name]
        and isinstance(new["kinds"][kind][name], dict)
        and fields[name] != new["kinds"][kind][name]
    ]


def processor() -> str:
    """What decides the bits of a product of matrices: vendor, family and model of the processor, and torch."""
    facts: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    named = [facts.get(name, "?") for name in ("vendor_id", "cpu family", "model")]
    return " ".join([*named, torch.backends.cpu.get_cpu_capability(), torch.__version__.partition("+")[0]])


def runs(folder: Path) -> Iterator[tuple[str, Run]]:
    """A run of every kind; each may begin where an earlier one has ended."""
    tokenizer = train_bpe([TEXT], vocab_size=300)
    tokenizer.save(words := folder / "tokenizer")
    write_shards([TEXT], tokenizer=tokenizer, folder=folder / "texts")
    rows = [{"text": TEXT[i : i + 40], "label": "ab"[i % 2]} for i in range(12)]
    asked = [{"instruction": TEXT[i : i + 9], "input": "", "output": TEXT[i + 9 : i + 20]} for i in range(12)]
    for name, lines in (("rows", rows), ("asked", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    labelled = LabelledText(folder / "rows.jsonl", words, ("a", "b"), 32)
    answers = Instructions(folder / "asked.jsonl", words, "short", 32)
    train = TrainConfig(steps=3, batch_size=4, optimizer=OptimizerConfig(lr=3e-3))
    gpt = GPTConfig(**SIZES, dropout=0.1)
    base, texts = folder / "gpt/checkpoint", TokenWindows(folder / "texts", 16)
    start: dict[str, Any] = {"tokenizer": words, "train": train, "init": base}
    yield "gpt", Run(data=texts, objective=NextToken(), tokenizer=words, model=gpt, train=train)
    llama = LlamaConfig(**{**SIZES, "width": 24, "n_heads": 4, "n_kv_heads": 2, "hidden_width": 40})
    yield "llama", Run(data=texts, objective=NextToken(), tokenizer=words, model=llama, train=train)
    muon = dataclasses.replace(train, optimizer=Muon(lr=3e-3))
    yield "muon", Run(data=texts, objective=NextToken(), tokenizer=words, model=gpt, train=muon)
    head = Classifier(labels=("a", "b"), train="all")
    yield "classify", Run(data=labelled, objective=Classify(0.1), transforms=(head,), **start)
    lora = (head, LoRA(rank=2, also_train=("head",)))
    yield "lora", Run(data=labelled, objective=Classify(), transforms=lora, **start)
    packed = dataclasses.replace(train, packed=True, micro_batch_size=2)
    yield "packed", Run(data=answers, objective=NextToken(), template="short", **{**start, "train": packed})
    yield "nf4", Run(data=answers, objective=NextToken(), transforms=(NF4(block_size=16), LoRA(rank=2)), **start)
    yield "distill", Run(data=texts, objective=Distill(base), tokenizer=words, model=gpt, train=train)


def trained(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind of run -> the digest of its final weights, and sum and norm of each."""
    for name, run in runs(folder):
        path = run.execute(folder / name, MemoryLogger()).path
        tensors, _ = checkpoint.unique_tensors(checkpoint.load(path).model)
        whole = hashlib.sha256()
        for tensor in tensors.values():
            whole.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        found = {key: [float(t.double().sum()), float(t.double().norm())] for key, t in tensors.items()}
        yield name, {"sha256": whole.hexdigest(), "tensors": found}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """What was recorded."""
    found: dict[str, Any] = json.loads(RECORD.read_text())
    return found


@pytest.mark.parametrize("preset", PIPELINES)
def test_the_keys_of_the_stages_are_what_they_were(preset: str, recorded: dict[str, Any]) -> None:
    """A changed key makes everything anew that anybody has made: never by accident, so never without this record."""
    assert keys(preset) == recorded["keys"][preset]


def test_the_fields_and_defaults_of_the_settings_are_what_they_were(recorded: dict[str, Any]) -> None:
    """A field is added with `later(default)`, which moves no key; a default is changed with the stage's version."""
    found = kinds()
    differing = {kind: found.get(kind) for kind in found.keys() | recorded["kinds"].keys()}
    changed = {kind: fields for kind, fields in differing.items() if fields != recorded["kinds"].get(kind)}
    assert changed == {}, "if that is meant: python tests/golden/test_golden.py"


def test_the_versions_of_the_stages_are_what_they_were(recorded: dict[str, Any]) -> None:
    assert versions() == recorded["versions"]


def test_a_changed_default_of_a_silent_field_is_told_from_an_added_one() -> None:
    """The kind: what is left out of a key while it has its default must keep that default."""
    old = {"kinds": {"A": {"window": {"silent": None}, "rate": 0.1}}}
    added = {"kinds": {"A": {"window": {"silent": None}, "rate": 0.1, "new": {"silent": 3}}}}
    changed = {"kinds": {"A": {"window": {"silent": 64}, "rate": 0.2}}}
    assert stale_defaults(old, added) == []
    assert stale_defaults(old, changed) == ["A.window: None became 64"]


def test_a_training_of_every_kind_ends_with_the_recorded_weights(recorded: dict[str, Any], tmp_path: Path) -> None:
    """To the bit on the processors where it was recorded, elsewhere as nearly as their sums round."""
    found = dict(trained(tmp_path))
    assert found.keys() == recorded["weights"].keys()
    for name, run in found.items():
        wanted = recorded["weights"][name]
        assert run["tensors"].keys() == wanted["tensors"].keys(), name
        for tensor, figures in run["tensors"].items():
            assert figures == pytest.approx(wanted["tensors"][tensor], rel=2e-3, abs=2e-3), f"{name}: {tensor}"
    digests = recorded["digests"].get(processor())
    if digests is not None:
        assert {name: run["sha256"] for name, run in found.items()} == digests


def record() -> None:
    """Write down what is so now."""
    old: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {"kinds": {}, "digests": {}}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        weights = dict(trained(Path(folder)))
    digests = {name: run.pop("sha256") for name, run in weights.items()}
    new = {
        "keys": {preset: keys(preset) for preset in PIPELINES},
        "versions": versions(),
        "kinds": kinds(),
        "weights": weights,
        "digests": {**old["digests"], processor(): digests},
    }
    if (stale := stale_defaults(old, new)) and new["versions"] == old.get("versions"):
        sys.exit(
            f"{'; '.join(stale)}: outputs made with the old default would be served for the new one, since neither is "
            "in their keys. Raise the version of the stages that read it, in their registration."
        )
    RECORD.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    record()
