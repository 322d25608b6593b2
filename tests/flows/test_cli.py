"""The command line: its help, its refusals, what it does without running anything, and the commands for models."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer.main

from flows.cli.app import app
from flows.cli.examples import EXAMPLES
from flows.recipes.resolve import resolve
from flows.stages.every import STAGES
from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.models import GPTConfig
from gptcore.tokenizer import train_bpe

Told = Callable[..., str]
FLOWS = ("pipeline", *STAGES)
SERVICES = ("up", "down", "status", "deploy", "worker", "drain", "reconcile", "clean")
OTHERS = ("join", "generate", "chat", "serve", "export", "runs", "compare", "sweep", "plan", "judge", "data",
          "retrain", "promote", "rollback", "lineage", "fake-ollama", *SERVICES, "doctor")  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    """A project folder that does not exist yet, and an environment that is as before afterwards."""
    before = dict(os.environ)
    os.environ |= {"GPTWORKS_HOME": str(tmp_path / "var"), "OLLAMA_HOST": "127.0.0.1:9", "COLUMNS": "200"}
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield tmp_path / "var"
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "checkpoint"
    tokenizer = train_bpe(["the model reads the text and the text reads the model"], vocab_size=280)
    model = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=32, width=8, n_layers=1, n_heads=2)
    spec = ModelSpec(model, tokenizer_digest=tokenizer.digest)
    checkpoint.save(folder, model=spec.build(), spec=spec, tokenizer=tokenizer)
    return folder


def test_help_lists_every_command(told: Told) -> None:
    text = told("--help")
    assert all(name in text for name in (*FLOWS, *OTHERS))


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_example_in_the_help_is_a_command_that_would_run(told: Told, name: str) -> None:
    shown = told(name, "--help")
    command = typer.main.get_group(app).commands[name]
    for line in EXAMPLES[name]:
        assert " ".join(line.split()) in shown
        program, called, *arguments = shlex.split(line)
        assert (program, called) == ("gptworks", name)
        given = command.make_context(name, arguments).params  # refuses an unknown option or a missing argument
        resolve(given.get("preset") or "demo", overrides=given.get("sets") or [])


def test_every_command_has_examples() -> None:
    assert set(EXAMPLES) == set(typer.main.get_group(app).commands)


def test_every_option_of_every_command_has_a_help_text() -> None:
    group = typer.main.get_group(app)
    assert set(group.commands) == {*FLOWS, *OTHERS}
    for name, command in group.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_the_options_of_a_flow_are_in_its_help(told: Told) -> None:
    text = told("pipeline", "--help")
    for option in ("--preset", "--set", "--data-dir", "--corpus", "--labelled", "--instructions", "--init", "--judge",
                   "--judge-model", "--optimizer", "--seed", "--force", "--dry-run", "--nproc", "--parallel",
                   "--nnodes", "--rdzv", "--max-restarts"):  # fmt: skip
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pipeline", "--prest", "tiny"), "No such option: --prest"),
        (("pipeline", "--preset", "tinny"), "unknown preset 'tinny'; did you mean 'tiny'? (known: book, demo, tiny)"),
        (("pretrain", "--set", "pretrain.train.epoch=2"), "TrainConfig has no field 'epoch'; did you mean 'epochs'?"),
        (
            ("pretrain", "--judge", "perhaps"),
            "expected EvaluateStage.judge to be one of 'auto', 'required', 'off', got 'perhaps'",
        ),
        (("pretrain", "--optimizer", "moun"), "unknown optimizer 'moun'; did you mean 'muon'? (known: adamw, muon)"),
        (("pretrain", "--seed", "x"), "Invalid value for '--seed'"),
        (("pretrain", "--nproc", "0"), "Invalid value for '--nproc'"),
        (("lora", "--parallel", "tensor"), "'tensor' is not one of 'ddp', 'fsdp'"),
        (("lora", "--parallel", "fsdp"), "ConfigError: --parallel is 'fsdp', but there is one process"),
        (("pipeline", "--nnodes", "2"), "ConfigError: --nnodes is 2, but --rdzv is missing"),
        (("pipeline", "--nproc", "2", "--rdzv", "a:1"), "ConfigError: --rdzv is 'a:1', but --nnodes is 1"),
        (("prepare-data", "--nproc", "2"), "No such option: --nproc"),
        (("worker",), "ConfigError: no Prefect server is known; start one with gptworks up, or set PREFECT_API_URL"),
        (("drain", "--sotp"), "No such option: --sotp"),
        (("deploy", "--type", "dockr"), "'dockr' is not one of 'process', 'docker', 'kubernetes'"),
        (("clean", "--days", "-1"), "Invalid value for '--days'"),
        (("join", "node1"), "ConfigError: --rdzv: expected HOST:PORT"),
        (("export", "somewhere", "out", "--to", "ggml"), "'ggml'"),
    ],
)
def test_what_is_unknown_is_refused_with_the_nearest_name(
    told: Told, home: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in told(*arguments, code=2)
    assert not home.exists()


@pytest.mark.parametrize(
    ("given", "nearest"), [(("pipeline", "--prest", "tiny"), "--preset"), (("pretrian",), "pretrain")]
)
def test_a_mistyped_option_or_command_names_the_nearest(told: Told, given: tuple[str, ...], nearest: str) -> None:
    assert re.search(rf"Did you mean '?{nearest}'?[?,]|Possible options: {nearest}", told(*given, code=2))


def test_a_dry_run_prints_configuration_and_plan_and_creates_nothing(told: Told, home: Path) -> None:
    changes = ("--seed", "7", "--init", "hf:openai-community/gpt2")
    text = told("pipeline", "--preset", "tiny", "--dry-run", *changes)
    assert '"seed": 7' in text
    assert '"init": "hf:openai-community/gpt2"' in text
    assert "prepare-data will run" in text
    assert "each training: 1 process" in text
    assert re.search(r"prepare-data will run about \d+\.\d M characters \d+ s ", text)
    # 6 steps of 4 samples, with the sizes of what --init names: 124 M parameters in windows of 1,024
    assert re.search(r"pretrain will run about 0\.02 M tokens, 18\.2 TFLOP \d+ (s|min)", text)
    assert re.search(r"about \d+ (s|min) in all on the processors of this machine", text)
    assert not home.exists()


def test_an_optimizer_may_be_chosen_and_its_own_settings_set(told: Told, home: Path) -> None:
    changes = ("--set", "pretrain.train.optimizer.momentum=0.9", "--optimizer", "muon")
    text = told("pretrain", "--preset", "tiny", "--dry-run", *changes)
    assert text.count('"kind": "Muon"') == 6
    assert text.count('"momentum": 0.9,') == 1
    assert not home.exists()


def test_a_dry_run_says_in_how_many_processes_each_training_would_run(told: Told, home: Path) -> None:
    options = ("--nproc", "8", "--nnodes", "2", "--rdzv", "node1:29500", "--parallel", "fsdp", "--max-restarts", "3")
    text = told("pretrain", "--preset", "tiny", "--dry-run", *options)
    machines = "2 machines that meet at node1:29500, here 8 processes, fsdp, restarted up to 3 times"
    assert f"each training: {machines}" in text
    assert "each training" not in told("prepare-data", "--preset", "tiny", "--dry-run")


def test_generate_continues_a_prompt_the_same_way_each_time(told: Told, trained: Path) -> None:
    options = ("--max-tokens", "5", "--temperature", "1.0", "--seed", "3")
    first = told("generate", str(trained), "the model", *options)
    assert first
    assert told("generate", str(trained), "the model", *options) == first
    assert told("generate", str(trained), "the model", *options[:-1], "4") != first


def test_a_draft_tells_how_often_it_was_right(told: Told, trained: Path) -> None:
    alone = told("generate", str(trained), "the model", "--max-tokens", "6")
    text = told("generate", str(trained), "the model", "--max-tokens", "6", "--draft", str(trained))
    assert text.startswith(alone)
    assert re.search(r"\d tokens in \d passes of the model; of (\d) drafted tokens \1 were accepted$", text)


@pytest.mark.parametrize("command", ["generate", "export"])
def test_a_path_without_a_checkpoint_is_one_message_and_its_own_exit_code(
    told: Told, tmp_path: Path, command: str
) -> None:
    text = told(command, str(tmp_path / "none"), str(tmp_path / "out"), code=4)
    assert text.startswith(f"error: CheckpointError: {tmp_path / 'none'}")
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_told_with_the_file(told: Told, trained: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in trained.rglob("*"):
        if path.is_file():
            target = damaged / path.relative_to(trained)
            target.parent.mkdir(exist_ok=True, parents=True)
            target.write_bytes(path.read_bytes())
    weights = damaged / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert "model.safetensors" in told("generate", str(damaged), "the", code=4)


def test_an_exported_checkpoint_loads_in_transformers_and_says_the_same(
    told: Told, trained: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    out = tmp_path / "exported"
    assert f"written: {out}" in told("export", str(trained), str(out), "--to", "hf")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(out, attn_implementation="eager").eval()
    loaded = checkpoint.load(trained)
    tokens = torch.tensor([loaded.tokenizer.encode("the model reads")])
    with torch.no_grad():
        ours = loaded.model.eval()(tokens)
        logits = theirs(tokens).logits
    assert torch.allclose(getattr(ours, "logits", ours), logits, atol=1e-4)
