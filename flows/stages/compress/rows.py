"""One row of the compression table: what a checkpoint weighs, how well it does and how fast."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.stages.compress.result import CompressedForm
from gptcore.checkpoint import Loaded
from gptcore.compress import compare, resident_bytes, share_of_zeros
from gptcore.data import Source
from gptcore.generation import Generator, Request, Sampling
from gptcore.kernels import prepare_for_inference
from gptcore.measures import classify_rows
from gptcore.nn import count_parameters
from gptcore.train.measure import EnergyMeter

BATCHES = (1, 32)
"""Prompts that are continued at a time when the speed is measured."""
METRICS = (
    "bytes",
    "memory_bytes",
    "n_parameters",
    "loss",
    "perplexity",
    "increase",
    "kl",
    "kl_p99",
    "same_top",
    "accuracy",
    "zeros",
    "tokens_per_second",
    "tokens_per_second_32",
    "joules_per_token",
)
"""The figures of a row that are tracked."""
_REPEATS = 3
_JOULES_PER_KWH = 3.6e6


def measure_language_model(
    loaded: Loaded, path: Path, *, original: Loaded, held_out: Source, n_tokens: int, meter: EnergyMeter | None
) -> dict[str, Any]:
    """A language model against the original: sizes in bytes, losses in nats, speeds in tokens a second.

    Afterwards ``loaded.model`` has the kernels for inference.

    Args:
        loaded: the compressed model.
        path: its checkpoint.
        original: what it was made of.
        held_out: what both are measured on.
        n_tokens: tokens that each prompt is continued by.
        meter: of the energy while 32 prompts are continued, if it can be read.
    """
    found = compare(original.model, loaded.model, held_out)
    prepare_for_inference(loaded.model)  # as it would be served; quality is that of the stored numbers
    alone, together = (_decoding_speeds(loaded, n_tokens, n_rows) for n_rows in BATCHES)
    return {
        "bytes": (path / "model.safetensors").stat().st_size,
        "memory_bytes": resident_bytes(loaded.model),
        "n_parameters": count_parameters(loaded.model).total,
        "zeros": share_of_zeros(loaded.model),
        "loss": found.loss,
        "perplexity": found.perplexity,
        "kl": found.kl,
        "kl_p99": found.kl_p99,
        "same_top": found.same_top,
        "tokens_per_second": sorted(alone)[_REPEATS // 2],
        "tokens_per_second_spread": max(alone) - min(alone),
        "tokens_per_second_32": sorted(together)[_REPEATS // 2],
        "joules_per_token": _joules(loaded, n_tokens, meter),
    }


def measure_classifier(loaded: Loaded, test: Source, *, n_classes: int) -> dict[str, Any]:
    """The accuracy of a classifier on its test rows."""
    return {"accuracy": classify_rows(loaded.model, test, n_classes=n_classes).accuracy}


def _decoding_speeds(loaded: Loaded, n_tokens: int, n_rows: int) -> list[float]:
    """Tokens a second over all rows, greedy, prompts included, three times."""
    rates = []
    for _ in range(_REPEATS):
        started = time.monotonic()
        n = _continue_prompts(loaded, n_tokens, n_rows)
        rates.append(n / (time.monotonic() - started))
    return rates


def _continue_prompts(loaded: Loaded, n_tokens: int, n_rows: int) -> int:
    request = Request([loaded.tokenizer.end_of_text], Sampling(max_new_tokens=n_tokens))
    answers = Generator(loaded.model, slots=n_rows).generate([request] * n_rows)
    return sum(len(answer.tokens) for answer in answers)


def _joules(loaded: Loaded, n_tokens: int, meter: EnergyMeter | None) -> float | None:
    """Energy of the machine for each token while 32 prompts are continued; None where it cannot be read."""
    if meter is None:
        return None
    meter.start()
    n = _continue_prompts(loaded, n_tokens, BATCHES[-1])
    kwh = meter.stop()
    return None if not kwh else kwh * _JOULES_PER_KWH / n


def form_metrics(variants: Sequence[CompressedForm]) -> dict[str, float]:
    """The figures of every form by ``<method>/<figure>``; MLflow takes no + in a name."""
    there = [(one, key, getattr(one, key)) for one in variants for key in METRICS]
    return {f"{one.name.replace('+', '-')}/{key}": float(value) for one, key, value in there if value is not None}


def as_text(variants: Sequence[CompressedForm]) -> str:
    """The table for a terminal."""
    wide = max(len("method"), *(len(one.name) for one in variants))
    head = (
        f"{'method':{wide}} {'MB':>8} {'perplexity':>11} {'increase':>9} {'gate':>7} {'KL':>8} {'same top':>8} "
        f"{'accuracy':>8} {'tokens/s':>9} {'at 32':>9}"
    )
    lines = [
        f"{one.name:{wide}} {one.bytes / 1e6:8.2f} {one.perplexity:11.3f} {one.increase:9.2%} "
        f"{_share(one.gate):>7} {one.kl:8.4f} {one.same_top:8.1%} {_share(one.accuracy):>8} "
        f"{one.tokens_per_second:9.1f} {one.tokens_per_second_32:9.1f}"
        for one in variants
    ]
    return "\n".join([head, *lines])


def _share(value: float | None) -> str:
    return "-" if value is None else format(value, ".2%")
