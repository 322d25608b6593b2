"""What a run would do, without doing it: which outputs exist, and about what the others cost."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import NamedTuple

from eval.trust import KNOWN_PAIRS
from eval.types import ControlCounts
from flows.chain.engine import Chain
from flows.progress import progress_bar
from flows.settings import read_settings
from flows.sources.hub import starting_sizes
from flows.stages.pipeline import Pipeline
from flows.stages.registry import STAGES, Stage
from flows.stages.unread import describe_unread
from gptcore.models import PRESETS, ModelConfig
from gptcore.train import TrainConfig

_EFFICIENCY = 0.5
"""Share of the measured matrix-product rate that training of a small model reaches; an estimate, not a promise."""
_PREPARED_CHARS = 2e6
"""Characters that are prepared in a second, all of it on one core; measured on a few megabytes of documentation."""
_TEMPLATE_TOKENS = 30
"""What a prompt template adds to an instruction."""
_FORWARD_AND_BACKWARD, _FORWARD = 6.0, 2.0
"""Floating-point operations for each parameter and token (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361)."""


class PlanLine(NamedTuple):
    """One stage of a plan."""

    stage: str
    state: str
    """``exists``, ``goes on`` (interrupted before), ``will run``, or ``left out`` (no rows)."""
    cost: str
    """Estimated amounts; empty where there is nothing to do."""
    seconds: float
    """Estimated time on this machine's processors; 0 where there is nothing to do or nothing is known."""


class Amounts(NamedTuple):
    """What there is to train on."""

    tokens: float
    """Training tokens of the corpus."""
    rows: dict[str, float]
    """Part -> training rows."""
    test: dict[str, float]
    """Part -> test rows."""
    row_chars: dict[str, float]
    """Part -> characters of an average row."""
    vocab_size: int
    known: bool
    """Whether the data is prepared; before, all is estimated from the sizes of the sources."""


def plan(config: Pipeline, name: str, *, data_dir: Path | None) -> list[PlanLine]:
    """The stages that ``name`` (a stage, or ``pipeline``) would need, in order."""
    chain = Chain(config, read_settings(), data_dir, progress_bar)
    wanted = list(STAGES) if name == "pipeline" else _needed(name)
    rate = _product_rate()
    return [_line(chain, STAGES[stage], rate) for stage in STAGES if stage in wanted]


def _needed(name: str) -> list[str]:
    return [*(inner for need in STAGES[name].needs for inner in _needed(need)), name]


def _line(chain: Chain, stage: Stage, rate: float) -> PlanLine:
    if not chain.applies(stage):
        return PlanLine(stage.name, f"left out: {chain.wanting(stage)}", "", 0.0)
    key = chain.key(stage)
    if chain.store.find(stage.name, key) is not None:
        return PlanLine(stage.name, "exists", "", 0.0)
    begun = chain.store.folder(stage.name, key).with_name(f"{key}.work").is_dir()
    return PlanLine(stage.name, "goes on where it stopped" if begun else "will run", *_cost(chain, stage, rate))


def _cost(chain: Chain, stage: Stage, rate: float) -> tuple[str, float]:
    """What a stage costs, in words, and its seconds."""
    pipeline = chain.pipeline
    if stage.name == "prepare-data":
        there = pipeline.prepare.source.expected(chain.places)
        n_chars = there.corpus_chars + sum(there.row_chars.values())
        cost = "; ".join([f"about {n_chars / 1e6:.1f} M characters", *describe_unread(pipeline.prepare.source.parts)])
        return cost, there.seconds + n_chars / _PREPARED_CHARS
    amounts, model = _amounts(chain), _model(pipeline)
    if stage.name == "evaluate":
        answers = min(amounts.test.get("instruct", 0.0), pipeline.instruct.max_responses)
        judged = f", and up to {_n_questions(pipeline, answers):.0f} questions to the judge, if one answers"
        judged = "" if pipeline.evaluate.judge == "off" else judged
        return f"about {answers:.0f} answers to score{judged}", 1.0
    if model is None:
        return f"not known for {pipeline.pretrain.init}", 0.0
    works = _works(stage.name, pipeline, amounts, model)
    tokens, operations = sum(n for n, _ in works), sum(n * each for n, each in works)
    about = "" if amounts.known else "about "
    return f"{about}{tokens / 1e6:.2f} M tokens, {operations / 1e12:.1f} TFLOP", operations / rate


def _n_questions(pipeline: Pipeline, answers: float) -> float:
    """Controls and items of each judge of a panel; and where models are seen side by side, each pair in both orders."""
    config, n_models = pipeline.evaluate, len(pipeline.evaluate.judge_models)
    scored = (1 + len(config.judge_panel)) * (answers * n_models + ControlCounts().total)
    n_pairs = n_models * (n_models - 1) / 2 if config.pairwise else 0
    return scored + 2 * (n_pairs * answers + (KNOWN_PAIRS if n_pairs else 0))


def _amounts(chain: Chain) -> Amounts:
    """From the prepared data if it exists, otherwise from the sizes of the sources and the shares of the splits."""
    config, prepared = chain.pipeline.prepare, chain.store.find("prepare-data", chain.key(STAGES["prepare-data"]))
    if prepared is not None:
        facts = prepared.result
        parts = {part: facts[part] for part in facts["parts"]}
        return Amounts(
            tokens=facts["tokens"]["train"],
            rows={part: each["rows"]["train"] for part, each in parts.items()},
            test={part: each["rows"]["test"] for part, each in parts.items()},
            row_chars={part: each["train_chars"] / each["rows"]["train"] for part, each in parts.items()},
            vocab_size=facts["vocab_size"],
            known=True,
        )
    there = config.source.expected(chain.places)
    vocab_size = config.vocab_size if config.tokenizer == "bpe" else PRESETS["gpt2-small"].vocab_size
    return Amounts(
        tokens=there.corpus_chars * config.corpus_split[0] / _chars_per_token(vocab_size),
        rows={part: n * config.split(part)[0] for part, n in there.rows.items()},
        test={part: n * config.split(part)[2] for part, n in there.rows.items()},
        row_chars={part: there.row_chars[part] / max(1, n) for part, n in there.rows.items()},
        vocab_size=vocab_size,
        known=False,
    )


def _works(stage: str, pipeline: Pipeline, amounts: Amounts, model: ModelConfig) -> list[tuple[float, float]]:
    """Tokens that a stage puts through the model, and the operations for each of them."""
    blocks = 12 * model.n_layers * model.width**2
    whole = blocks + amounts.vocab_size * model.width  # a classifier has no use for the words' head
    length = model.context_length
    if stage == "pretrain":
        return [(_n_samples(amounts.tokens / length, pipeline.pretrain.train) * length, _FORWARD_AND_BACKWARD * whole)]
    row = {
        part: min(length, chars / _chars_per_token(amounts.vocab_size) + _TEMPLATE_TOKENS * (part == "instruct"))
        for part, chars in amounts.row_chars.items()
    }
    if stage == "compress":
        return _compression(pipeline, amounts, row, whole=whole, length=length)
    trainings = {
        "finetune-classifier": {"classify": pipeline.classify.train},
        "finetune-instruct": {"instruct": pipeline.instruct.train},
        "lora": {"classify": pipeline.lora.classify, "instruct": pipeline.lora.instruct},
    }[stage]
    return [
        (
            _n_samples(amounts.rows[part], train) * row[part],
            _FORWARD_AND_BACKWARD * (blocks if part == "classify" else whole),
        )
        for part, train in trainings.items()
        if part in row
    ]


def _compression(
    pipeline: Pipeline, amounts: Amounts, row: dict[str, float], *, whole: float, length: int
) -> list[tuple[float, float]]:
    """Every method is measured beside the original, and some are trained."""
    config, instructed = pipeline.compress, pipeline.compress.model == "instruct" and "instruct" in row
    held_out = amounts.test["instruct"] * row["instruct"] if instructed else amounts.tokens / 10
    n_rows, per_row = (amounts.rows["instruct"], row["instruct"]) if instructed else (amounts.tokens / length, length)
    trained = config.n_trainings * _n_samples(n_rows, config.train) * per_row
    return [(2 * (1 + len(config.methods)) * held_out, _FORWARD * whole), (trained, _FORWARD_AND_BACKWARD * whole)]


def _n_samples(n_rows: float, train: TrainConfig) -> float:
    return train.steps * train.batch_size if train.steps is not None else train.epochs * n_rows


def _chars_per_token(vocab_size: int) -> float:
    """Of byte-level BPEs on English: 1.9 measured with 512 tokens, 3.7 with 4,096, 4.4 with GPT-2's 50,257."""
    return min(4.4, max(1.0, 0.6 * math.log2(vocab_size) - 3.5))


def _model(pipeline: Pipeline) -> ModelConfig | None:
    return starting_sizes(pipeline.pretrain.init) if pipeline.pretrain.init else pipeline.pretrain.model


def duration(seconds: float) -> str:
    """An estimated time, no more exactly than it is known."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _product_rate() -> float:
    """Floating-point operations a second that training can expect here, from one short matrix product."""
    import torch

    a = torch.ones(512, 512)
    a @ a
    started = time.perf_counter()
    for _ in range(8):
        a @ a
    return _EFFICIENCY * 8 * 2 * 512**3 / (time.perf_counter() - started)
