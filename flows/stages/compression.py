"""Quantization of the instruction-tuned model (or of the base model where there is none), held against a gate."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.recipes import QuantizeStage
from flows.stages.context import Context, Inputs
from flows.stages.equivalence import held_out_tokens, same_model
from flows.stages.training import CHECKPOINT
from gptcore import checkpoint
from gptcore.checkpoint import Loaded
from gptcore.data import Instructions, Source, TokenWindows
from gptcore.errors import GptcoreError
from gptcore.generation import Generator, Request, Sampling
from gptcore.objectives import NextToken
from gptcore.train import Progress, evaluate
from gptcore.transforms import Quantize


class QualityGateError(GptcoreError):
    """A compressed model lost more than the gate allows; its text holds the table."""

    exit_code = 10


def quantize(config: QuantizeStage, inputs: Inputs, context: Context) -> dict[str, Any]:
    """int8 and int4 variants: size, held-out loss and perplexity against the original, decoding speed.

    Raises:
        QualityGateError: a variant's perplexity rose by more than its gate; the table is in the message and tracked.
    """
    parent = "finetune-instruct" if "finetune-instruct" in inputs.folders else "pretrain"
    source = inputs.path(parent, CHECKPOINT)
    original = checkpoint.load(source)
    held_out, measured_on = _held_out(inputs, parent, original)
    variants = [_measured("fp32", source, original, held_out, config)]
    context.on_progress(Progress(1, 3, {}))
    for step, (name, transform, gate) in enumerate(
        (
            ("int8", Quantize(bits=8, group_size=config.group_size), config.max_increase_int8),
            ("int4", Quantize(bits=4, group_size=config.group_size), config.max_increase_int4),
        ),
        start=2,
    ):
        loaded = checkpoint.load(source)
        spec = replace(loaded.spec, transforms=(*loaded.spec.transforms, transform))
        model = transform.apply(loaded.model)
        path = context.folder / name
        checkpoint.save(path, model=model, spec=spec, tokenizer=loaded.tokenizer)
        variant = _measured(name, path, checkpoint.load(path), held_out, config)
        increase = variant["perplexity"] / variants[0]["perplexity"] - 1
        variants.append({**variant, "increase": increase, "gate": gate, "passed": increase <= gate})
        context.log.log_artifact(path)
        context.on_progress(Progress(step, 3, {}))
    context.log.log_table(variants, "quantization.json")
    (context.folder / "variants.json").write_text(json.dumps(variants, indent=1), encoding="utf-8")
    metrics = {f"{v['name']}/{key}": float(v[key]) for v in variants for key in _METRICS if v.get(key) is not None}
    context.log.log_metrics(metrics)
    failed = [variant["name"] for variant in variants if not variant["passed"]]
    if failed:
        raise QualityGateError(
            f"{', '.join(failed)} lost too much quality\n{_as_text(variants)}\n"
            "raise quantize.max_increase_int8 or quantize.max_increase_int4, or lower quantize.group_size"
        )
    forms = {name: context.folder / name for name in ("int8", "int4")}
    equivalence = same_model(original, source, held_out_tokens(held_out, original.model), variants=forms)
    context.log.log_table(equivalence, "equivalence.json")
    return {
        "parent": parent,
        "measured_on": measured_on,
        "variants": variants,
        "metrics": metrics,
        "equivalence": equivalence,
    }


def _held_out(inputs: Inputs, parent: str, original: Loaded) -> tuple[Source, str]:
    """What the model is made for, and its name: the held-out instructions, or the held-out corpus for a base model.

    An instructed model has left the corpus behind; its perplexity there says little about what rounding costs it.
    """
    length = original.model.config.context_length
    if parent == "pretrain" or original.spec.template is None:
        return TokenWindows(inputs.path("prepare-data", "corpus/val"), length).open(), "the held-out part of the corpus"
    tokenizer = inputs.path(parent, CHECKPOINT) / "tokenizer"
    rows = inputs.path("prepare-data", "instruct/test.jsonl")
    source = Instructions(rows, tokenizer, original.spec.template, length, split="test").open()
    return source, "the answers to the held-out instructions"


_METRICS = ("bytes", "loss", "perplexity", "increase", "tokens_per_second")


def _measured(name: str, path: Path, loaded: Loaded, held_out: Source, config: QuantizeStage) -> dict[str, Any]:
    measured = evaluate(loaded.model, held_out, NextToken(), batch_size=16)
    size = (path / "model.safetensors").stat().st_size
    return {
        "name": name,
        "bytes": size,
        "loss": measured.loss,
        "perplexity": math.exp(measured.loss),
        "increase": 0.0,
        "gate": None,
        "passed": True,
        "tokens_per_second": _decoding_speed(loaded, config.speed_tokens),
    }


def _decoding_speed(loaded: Loaded, n_tokens: int) -> float:
    """Tokens a second for one prompt, greedy, prompt included; the median of three."""
    request = Request([loaded.tokenizer.end_of_text], Sampling(max_new_tokens=n_tokens))
    generator = Generator(loaded.model, slots=1)
    rates = []
    for _ in range(3):
        started = time.monotonic()
        (answer,) = generator.generate([request])
        rates.append(len(answer.tokens) / (time.monotonic() - started))
    return sorted(rates)[1]


def _as_text(variants: list[dict[str, Any]]) -> str:
    head = f"{'variant':8} {'MB':>8} {'perplexity':>11} {'increase':>9} {'gate':>7} {'tokens/s':>9}"
    lines = [
        f"{v['name']:8} {v['bytes'] / 1e6:8.2f} {v['perplexity']:11.3f} {v['increase']:9.2%} "
        f"{'-' if v['gate'] is None else format(v['gate'], '.2%'):>7} {v['tokens_per_second']:9.1f}"
        for v in variants
    ]
    return "\n".join([head, *lines])
