"""An export that lives only under the tests is listed, written, read back and compared, or refused with a sentence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flows.cli.entry import main
from flows.export.every import find_export, list_exports
from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.errors import ConfigError, ExportMismatch
from gptcore.export import Export, Option, register_export
from gptcore.export.exporter import Exporter, write_export
from gptcore.export.registry import use_export
from gptcore.models import NetworkConfig
from gptcore.readers import ImageReader
from gptcore.tokenizer import Tokenizer
from gptcore.transforms import Classifier, LoRA
from tests.house.exports import NPZ, PRECISION, WORDS, archive
from tests.house.networks import HouseEncoderConfig, HouseSeq2SeqConfig, HouseViewerConfig

RunCommand = Callable[..., str]
Saved = Callable[..., Path]
ENCODER = HouseEncoderConfig(vocab_size=280)
pytestmark = [pytest.mark.flows, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def npz() -> Iterator[Export]:
    """The export, in the table until the test's end."""
    with use_export(NPZ) as export:
        yield export


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """What a command prints, its white space made even."""
    for name, value in {"GPTWORKS_HOME": str(tmp_path / "var"), "OLLAMA_HOST": "127.0.0.1:9", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        printed = capsys.readouterr()
        text = " ".join(re.sub(r"[│╭╰╮╯─]", " ", printed.out + printed.err).split())
        assert (end.value.code or 0) == code, text
        return text

    return run


@pytest.mark.usefixtures("npz")
def test_it_and_its_option_are_in_the_help(run_command: RunCommand) -> None:
    text = run_command("export", "--help")
    assert "[hf|gguf|peft|ollama|mlflow|npz]" in text
    assert "npz: an archive for numpy." in text
    assert "Only with --to npz: Of the weights. One of single, half. By default single." in text
    assert "Only with --to gguf, ollama: How the matrices' numbers are packed." in text
    assert "Folder to write; the model's name with --to ollama." in text


def test_it_is_gone_with_its_registration(run_command: RunCommand) -> None:
    assert "npz" not in run_command("export", "--help")
    assert "No such option: --precision" in run_command("export", "a", "b", "--precision", "half", code=2)


@pytest.mark.usefixtures("npz")
@pytest.mark.parametrize("config", ["gpt2", "llama", ENCODER])
def test_it_is_written_read_back_and_compared(
    run_command: RunCommand, saved: Saved, tmp_path: Path, config: NetworkConfig | str
) -> None:
    source, out = saved(config=config), tmp_path / "out"
    for _ in range(2):  # an earlier export is replaced
        text = run_command("export", str(source), str(out), "--to", "npz")
        assert f"written: {out}; against fp32: logits differ by up to 0 of" in text
    with np.load(out / "weights.npz") as found:
        for name, tensor in checkpoint.load(source).model.state_dict().items():
            assert torch.equal(torch.from_numpy(found[name]), tensor)
    (out / "notes.txt").write_text("mine")
    assert "exists and is not an earlier export" in run_command("export", str(source), str(out), "--to", "npz", code=2)


def test_updates_beside_the_layers_are_merged_without_a_word_of_its_own(saved: Saved, tmp_path: Path) -> None:
    source = saved(LoRA(rank=2))
    done = write_export(NPZ, source, tmp_path / "out")
    assert done.agreement is not None
    assert done.agreement.is_equal
    with np.load(tmp_path / "out/weights.npz") as found:
        assert not [name for name in found.files if "lora" in name]


def test_one_that_rounds_says_how_far_it_is_from_the_model(saved: Saved, tmp_path: Path) -> None:
    done = write_export(NPZ, saved(), tmp_path / "out", options={"precision": "half"})
    assert done.agreement is not None
    assert 0 < done.agreement.largest_difference < 0.1


@pytest.mark.usefixtures("npz")
def test_a_changed_weight_is_refused_and_nothing_is_left(run_command: RunCommand, saved: Saved, tmp_path: Path) -> None:
    source = saved()
    before = sorted(tmp_path.rglob("*"))
    with use_export(archive("Spoiled", name="spoiled")):
        text = run_command(
            "export", str(source), str(tmp_path / "out"), "--to", "spoiled", code=ExportMismatch.exit_code
        )
    assert "what was written, read back, gives other logits than the model" in text
    assert [path for path in sorted(tmp_path.rglob("*")) if "var" not in path.parts] == before
    assert write_export(archive("Unlooked"), source, tmp_path / "out").agreement is not None


def test_one_that_cannot_be_read_back_says_why(run_command: RunCommand, saved: Saved, tmp_path: Path) -> None:
    with use_export(WORDS):
        text = run_command("export", str(saved()), str(tmp_path / "out"), "--to", "words")
    assert text.endswith("not read back: a list of words holds no weights")
    with pytest.raises(ConfigError, match="has no way to be read back, and does not say why; expected tests"):
        write_export(replace(WORDS, exporter="tests.house.exports:Mute"), saved(), tmp_path / "mute")
    assert not (tmp_path / "mute").exists()


@pytest.mark.usefixtures("npz")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "npy"), "ConfigError: --to is 'npy'; did you mean 'npz'?"),
        (("--to", "ggfu"), "did you mean 'gguf'? (known: gguf, hf, mlflow, npz, ollama, peft)"),
        (
            ("--to", "hf", "--packing", "f16"),
            "--packing does not apply to --to hf, only to: gguf, ollama; expected no",
        ),
        (("--host", "there"), "--host does not apply to --to hf, only to: ollama; expected no option"),
        (
            ("--to", "npz", "--packing", "f16"),
            "--packing does not apply to --to npz, only to: gguf, ollama; expected",
        ),
        (("--to", "gguf", "--packing", "q8_1"), "--packing is 'q8_1'; did you mean 'q8_0'? (known: bf16, f16"),
    ],
)
def test_what_is_unknown_or_does_not_apply_is_refused_by_name(
    run_command: RunCommand, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in run_command("export", str(tmp_path / "none"), str(tmp_path / "out"), *arguments, code=2)


def test_equal_names_are_refused(npz: Export) -> None:
    with pytest.raises(ConfigError, match=r"two exports are named 'npz': tests\.house\.exports:NpzExporter and tests"):
        register_export(archive("Spoiled"))
    other = replace(npz, name="other", options=(replace(PRECISION, default="half"),))
    with pytest.raises(ConfigError, match="the exports 'npz' and 'other' have options --precision that"):
        register_export(other)
    assert [export.name for export in list_exports()] == ["hf", "gguf", "peft", "ollama", "mlflow", "npz"]
    for name in ("to", "Big", "a-b"):
        with pytest.raises(ConfigError, match="an option of an export is named"):
            Option(name, "It cannot be.")


@pytest.mark.usefixtures("npz")
def test_each_description_leads_to_an_exporter_with_its_settings() -> None:
    for export in list_exports():
        exporter = export.open({option.name: option.default for option in export.options})
        assert isinstance(exporter, Exporter)
        assert {option.name for option in export.options} <= set(dir(exporter))
        assert type(exporter).read is not Exporter.read or exporter.unread


def test_an_installed_package_brings_one_and_the_help_stays_quick(tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text(
        "from gptcore.export import Export, register_export\n"
        "register_export(Export('tar', 'an archive of the sea', 'outside:Tar', takes={'words': ('words',)}))\n"
    )
    (info := tmp_path / "outside-1.0.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gptworks.components]\noutside = outside\n")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from flows.cli.entry import main\n"
        "try: main(['export', '--help'])\n"
        "finally: print(sorted({'torch', 'numpy', 'mlflow', 'ollama', 'gguf'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "COLUMNS": "200", "GPTWORKS_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "tar: an archive of the sea" in " ".join(re.sub("│", " ", done.stdout).split())
    assert done.stdout.rstrip().endswith("[]")


HEAD = (Classifier(labels=("a", "b"), train="all"),)
OTHERS: dict[str, ModelSpec] = {
    "encoder": ModelSpec(ENCODER),
    "encoder with classes": ModelSpec(ENCODER, HEAD),
    "seq2seq": ModelSpec(HouseSeq2SeqConfig(vocab_size=280)),
    "viewer": ModelSpec(HouseViewerConfig()),
    "viewer with classes": ModelSpec(HouseViewerConfig(), HEAD),
}


def other_network(path: Path, tokenizer: Tokenizer, name: str) -> Path:
    """A checkpoint of a network that is no decoder."""
    images = ImageReader(size=8, channels=1, mean=(0.5,), std=(0.25,))
    if name.startswith("viewer"):
        spec = replace(OTHERS[name], images_digest=images.digest)
        checkpoint.save(path, model=spec.build(), spec=spec, images=images)
    else:
        spec = replace(OTHERS[name], tokenizer_digest=tokenizer.digest)
        checkpoint.save(path, model=spec.build(), spec=spec, tokenizer=tokenizer)
    return path


GENERATE = "expected a network that can generate text for an export --to {form}, got a HouseEncoder, which can: sum"
FEATURES = "gives only features; this form is for models that give words"
CLASSES = "gives classes; this form is for models that give words alone; export it with --to hf or mlflow"


@pytest.mark.parametrize(
    ("network", "forms", "sentence"),
    [
        ("encoder", ["hf", "gguf", "peft", "mlflow"], GENERATE),
        ("encoder with classes", ["hf"], GENERATE),
        ("encoder with classes", ["gguf", "peft"], CLASSES),
        ("seq2seq", ["hf", "gguf"], "expected a decoder for decoding, got a HouseSeq2Seq, which reads a source"),
        ("seq2seq", ["peft"], "has 0 adapters"),
        ("viewer", ["hf", "gguf", "peft", "mlflow"], FEATURES),
        ("viewer with classes", ["hf"], "can generate text for an export --to hf, got a HouseViewer"),
        ("viewer with classes", ["gguf", "peft"], CLASSES),
        ("viewer with classes", ["mlflow"], "can read text for an export --to mlflow, got a HouseViewer"),
    ],
)
def test_a_network_that_a_form_is_not_for_is_refused_with_a_sentence(
    tokenizer: Tokenizer, tmp_path: Path, network: str, forms: list[str], sentence: str
) -> None:
    source = other_network(tmp_path / "c", tokenizer, network)
    for form in forms:
        with pytest.raises(ConfigError, match=re.escape(sentence.format(form=form))):
            write_export(find_export(form), source, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_mlflow_takes_what_classifies_or_answers_whatever_its_network(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = other_network(tmp_path / "c", tokenizer, "encoder with classes")
    done = write_export(find_export("mlflow"), source, tmp_path / "out")
    assert done.agreement is not None
    assert done.agreement.is_equal
    source = other_network(tmp_path / "s", tokenizer, "seq2seq")
    assert write_export(find_export("mlflow"), source, tmp_path / "answers").agreement is None


@pytest.mark.parametrize("form", ["gguf", "peft"])
def test_a_classifier_is_sent_to_the_forms_that_take_one(saved: Saved, tmp_path: Path, form: str) -> None:
    source = saved(Classifier(labels=("a", "b")))
    exported = find_export(form)
    with pytest.raises(ConfigError, match=r"gives classes; .* give words alone; export it with --to hf or mlflow"):
        write_export(exported, source, tmp_path / "out")
