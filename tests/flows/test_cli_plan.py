"""``gptworks plan``: its tables and its JSON, its refusals, and the numbers of docs/scaling.md."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from flows.cli.plan import plan
from gptcore import scaling
from gptcore.errors import ConfigError
from gptcore.models import PRESETS
from gptcore.scaling import GPUS
from gptcore.scaling.speed import MFU

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
ENGINES = {None: "one process", "ddp": "DDP", "fsdp": "FSDP"}
app = typer.Typer(add_completion=False)
app.command("plan")(plan)


def invoked(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)


def told(*arguments: str) -> str:
    """What the command prints, without the lines of its tables."""
    result = invoked(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(re.sub(r"[─-╿]", " ", result.output).split())


def planned(*arguments: str) -> dict[str, Any]:
    result = invoked(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading or a bold word, without its head."""
    rows = DOCUMENT.split(heading, 1)[1].split("\n|", 1)[1].split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


# --- the command


def test_tables_tell_parameters_memory_verdict_and_speed() -> None:
    text = told("--model", "gpt2-xl", "--gpus", "8", "--price", "2")
    for part in (
        "gpt2-xl, context 1,024, on 8 x H100 SXM: DDP, bf16",
        "total 1,557,611,200",
        "activations kept checkpointed",
        "fits: 64.3 of 72.0 GB (90% of 80 GB)",
        "sent by each GPU, all-reduce 10.90 GB",
        "tokens per second",
        "31,152,224,000 (20 per parameter)",
        "nothing here was measured on a GPU",
        "0.35 by default",
    ):
        assert part in text
    assert re.search(r"cost \$\d", text)


def test_what_does_not_fit_is_said_with_what_would_make_it_fit() -> None:
    text = told("--model", "gpt2-xl", "--gpu", "rtx4090")
    assert "does not fit: " in text
    assert "GB, more than the 21.6 GB (90% of 24 GB)" in text
    assert re.search(r"--checkpoint-activations [\d.]+ not enough", text)
    assert re.search(r"--checkpoint-activations --parallel fsdp --gpus 2 [\d.]+ fits", text)
    assert "all-reduce" not in text
    found = planned("--model", "gpt2-xl", "--gpu", "rtx4090")
    assert not found["memory"]["fits"]
    assert [remedy["fits"] for remedy in found["remedies"]] == [False, True]


def test_json_holds_what_the_library_computes() -> None:
    found = planned("--model", "gpt2-medium", "--gpus", "8", "--gpu", "a100-40", "--parallel", "fsdp")
    assert found["parameters"]["total"] == 354_823_168
    assert found["memory"]["fits"]
    assert found["remedies"] == []
    job = scaling.Job(PRESETS["gpt2-medium"], GPUS["a100-40"], 8, "bf16", "fsdp", 512, found["micro_batch_size"])
    assert found["memory"]["total"] == scaling.memory(job).total
    assert found["memory_the_other_way"]["total"] < found["memory"]["total"]
    assert found["communication"]["total"] == scaling.communication(job).total
    assert found["speed"]["tokens_per_second"] == pytest.approx(scaling.pace(job).tokens_per_second)
    assert found["cost"]["price"] is None


def test_every_option_reaches_the_plan() -> None:
    found = planned(
        *("--model", "mini", "--width", "512", "--layers", "3", "--heads", "8", "--context", "128", "--vocab", "1000"),
        *("--gpus", "2", "--gpu", "l4", "--tflops", "50", "--memory", "20", "--precision", "fp32"),
        *("--parallel", "fsdp", "--micro-batch", "4", "--batch-size", "16", "--checkpoint-activations"),
        *("--mfu", "0.5", "--tokens", "1e6", "--price", "0.5", "--bandwidth", "10"),
    )
    model = found["model"]
    assert (model["width"], model["n_layers"], model["n_heads"]) == (512, 3, 8)
    assert (model["context_length"], model["vocab_size"]) == (128, 1000)
    assert (found["gpu"]["fp32_tflops"], found["gpu"]["memory"], found["precision"]) == (50, 20, "fp32")
    assert (found["parallel"], found["micro_batch_size"], found["n_micro_batches"]) == ("fsdp", 4, 2)
    assert (found["checkpoint_activations"], found["communication"]["bandwidth_gb"]) == (True, 10)
    samples = 8 * 128 * found["flops_per_token"]
    assert found["speed"]["compute_seconds"] == pytest.approx(4 / 3 * samples / (0.5 * 50e12))
    assert (found["cost"]["n_tokens"], found["cost"]["n_steps"]) == (1_000_000, 489)
    assert found["cost"]["price"] == pytest.approx(found["cost"]["gpu_hours"] / 2)


def test_numbers_of_the_products_are_those_the_device_is_fast_in() -> None:
    assert planned("--gpu", "l4")["precision"] == "bf16"
    assert planned("--gpu", "t4", "--gpus", "2")["precision"] == "fp16"
    cpu = planned("--gpu", "cpu", "--tflops", "0.12", "--memory", "16", "--model", "micro")
    assert (cpu["precision"], cpu["parallel"], cpu["communication"]["bandwidth_gb"]) == ("fp32", None, None)


def test_the_memory_of_a_cpu_is_this_machines() -> None:
    assert planned("--gpu", "cpu", "--tflops", "0.12", "--model", "nano")["gpu"]["memory"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "gpt2-xxl"), "unknown model 'gpt2-xxl'; did you mean 'gpt2-xl'"),
        (("--gpu", "h1000"), "unknown gpu 'h1000'; did you mean 'h100'"),
        (("--gpu", "cpu"), "the peak rate of CPU in fp32 is not known; give it by --tflops"),
        (("--gpu", "t4", "--precision", "bf16"), "T4 does not compute in bf16"),
        (("--gpu", "t4", "--gpus", "2", "--parallel", "fsdp"), "expected precision to be 'bf16' or 'fp32' with fsdp"),
        (("--width", "100"), "width 100 is not a multiple of n_heads 12"),
        (("--gpus", "0"), "expected n_gpus to be at least 1, got 0"),
        (("--gpus", "8", "--batch-size", "4"), "fewer than the 8 GPUs"),
        (("--micro-batch", "0"), "expected micro_batch_size to be at least 1, got 0"),
        (("--tflops", "0"), "--tflops: expected a value above 0, got 0"),
        (("--memory", "-1"), "--memory: expected a value above 0, got -1"),
        (("--mfu", "40"), "expected mfu, a share of the peak rate, to be above 0 and at most 1, got 40"),
        (("--bandwidth", "0", "--gpus", "2"), "expected bandwidth to be above 0 GB/s, got 0"),
        (("--tokens", "0"), "expected tokens to be at least 1, got 0"),
        (("--price", "-1"), "expected price to be at least 0, got -1"),
    ],
)
def test_what_cannot_be_is_refused_with_the_option_and_the_rule(arguments: tuple[str, ...], message: str) -> None:
    result = invoked(*arguments)
    assert isinstance(result.exception, ConfigError), result.output
    assert message in str(result.exception)


def test_help_names_every_preset_and_device_and_the_default_share() -> None:
    text = told("--help")
    for names in (PRESETS, GPUS):
        assert f"{', '.join(names)}." in text
    assert f"default: {MFU}." in text


def test_help_loads_no_torch() -> None:
    source = "import sys; import flows.cli.plan; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


# --- docs/scaling.md


def test_worked_examples_in_the_document_are_what_the_command_says() -> None:
    rows = table("## Worked examples")
    assert len(rows) >= 8
    for row in rows:
        found = planned(*shlex.split(row[0].strip("`")))
        assert row[1:] == [
            f"{ENGINES[found['parallel']]}, {found['precision']}",
            f"{found['n_micro_batches']} × {found['micro_batch_size']}",
            f"{found['memory']['total'] / 1e9:.1f}",
            f"{found['communication']['total'] / 1e9:.1f}",
            f"{found['speed']['tokens_per_second']:,.0f}",
            f"{found['cost']['hours']:,.1f}",
        ], row[0]
        assert found["memory"]["fits"], row[0]


def test_the_memory_table_in_the_document_is_what_the_command_says() -> None:
    command = re.search(r"Per GPU, for `gptworks plan ([^`]+)`", DOCUMENT)
    assert command
    ways = [planned(*shlex.split(command.group(1)), "--parallel", kind)["memory"] for kind in ("ddp", "fsdp")]
    told_parts = {row[0]: row[3:] for row in table("Per GPU, for")}
    assert told_parts == {part: [f"{way[part] / 1e9:.2f}" for way in ways] for part in told_parts}
    assert set(told_parts) == {*scaling.Memory._fields, "total"}


def test_published_runs_in_the_document_reach_the_told_share_of_the_peak() -> None:
    rows = table("The share of the peak, MFU")
    assert len(rows) == 3
    for _, model, gpus, speed, mfu in rows:
        n, gpu = gpus.split()
        flops = float(speed.replace(",", "")) * scaling.flops_per_token(PRESETS[model])
        assert f"{flops / (int(n) * GPUS[gpu].tflops('bf16') * 1e12):.2f}" == mfu
    assert f"**{MFU}**" in DOCUMENT


def test_commands_in_the_document_that_plan_run() -> None:
    shown = re.findall(r"^gptworks plan (.+)$", DOCUMENT, re.MULTILINE)
    assert shown
    for options in shown:
        assert invoked(*shlex.split(options)).exit_code == 0, options
