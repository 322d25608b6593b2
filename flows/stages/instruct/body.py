"""Fine-tuning for instructions."""

from __future__ import annotations

from pathlib import Path

from flows.stages.context import Context, Inputs
from flows.stages.instruct.recipe import InstructStage
from flows.stages.instruct.result import InstructResult
from flows.stages.pipeline import Pipeline
from flows.stages.training import CHECKPOINT, execute, save_ledger
from gptcore.checkpoint import read_spec
from gptcore.data import Instructions, Ledger, template_by_name
from gptcore.files import read_json_lines, write_json_lines
from gptcore.generation import Sampling
from gptcore.objectives import NextToken
from gptcore.run import Run
from gptcore.text import TextModel
from gptcore.tokenizer import Tokenizer
from gptcore.train import Progress, TrainConfig, TrainResult
from gptcore.transforms import ExtendVocabulary, Transform

RESPONSES = "responses.jsonl"
"""Place of the answered rows in the output."""


def run(pipeline: Pipeline, inputs: Inputs, context: Context) -> InstructResult:
    """The base model taught to answer, and the held-out answers before and after."""
    config = pipeline.instruct
    base = inputs.path("pretrain", CHECKPOINT)
    result = train_instruct(config, (), config.train, inputs, context, folder="run")
    test, ledger = choose_prompts(inputs, config)
    before = answer(base, config, test, context, offset=0)
    after = answer(context.folder / CHECKPOINT, config, test, context, offset=len(test), ledger=ledger)
    ledger.save(context.folder / "answers/ledger.json")
    rows = [{**row, "base": b, "response": a} for row, b, a in zip(test, before, after, strict=True)]
    write_responses(context, rows)
    return InstructResult(checkpoint=CHECKPOINT, responses=RESPONSES, metrics=result.metrics)


def train_instruct(
    config: InstructStage,
    transforms: tuple[Transform, ...],
    train: TrainConfig,
    inputs: Inputs,
    context: Context,
    *,
    folder: str,
) -> TrainResult:
    """The base model taught to answer; special tokens that the template needs are added."""
    base = inputs.path("pretrain", CHECKPOINT)
    spec = read_spec(base)
    words = template_by_name(config.template).special_tokens
    known = Tokenizer.load(inputs.path("prepare-data", "tokenizer"))
    tokenizer, folder_of = known.with_special_tokens(words), inputs.path("prepare-data", "tokenizer")
    if tokenizer is not known:
        folder_of = context.folder / "tokenizer"
        tokenizer.save(folder_of)
        # an adapter beside frozen weights would never learn the new tokens' embeddings
        extended = ExtendVocabulary(vocab_size=tokenizer.vocab_size)
        transforms = (extended, *(each.with_trained_words() for each in transforms))

    def data(split: str) -> Instructions:
        path = inputs.path("prepare-data", f"instruct/{split}.jsonl")
        length = spec.words.context_length
        return Instructions(path, folder_of, config.template, length, config.mask_prompt, split=split)

    training = Run(
        init=base,
        transforms=transforms,
        data=data("train"),
        held_out=data("val"),
        objective=NextToken(),
        tokenizer=folder_of,
        template=config.template,
        train=train,
        seed=context.seed,
    )
    result = execute(training, context, folder=folder)
    save_ledger(context.folder / folder, [data("train"), data("val")])
    return result


def choose_prompts(inputs: Inputs, config: InstructStage) -> tuple[list[dict[str, str]], Ledger]:
    """Choose the rows that are answered; with a ledger of those that are not."""
    rows, ledger = read_json_lines(inputs.path("prepare-data", "instruct/test.jsonl")), Ledger()
    if n := len(rows[config.max_responses :]):
        ledger.count("answer", "in", n=n, split="test")
        ledger.count("answer", "dropped", n=n, reason="beyond instruct.max_responses", split="test")
    return rows[: config.max_responses], ledger


def answer(
    path: Path,
    config: InstructStage,
    rows: list[dict[str, str]],
    context: Context,
    *,
    offset: int,
    ledger: Ledger | None = None,
) -> list[str]:
    """The responses of a checkpoint to rows of instructions; ``offset`` are answered already."""
    model = TextModel.load(path, template=config.template)
    total = offset + len(rows)
    return model.respond(
        [(row["instruction"], row.get("input", "")) for row in rows],
        sampling=Sampling(max_new_tokens=config.max_new_tokens),
        on_done=lambda done: context.on_progress(Progress(offset + done, total, {})),
        ledger=ledger,
    )


def write_responses(context: Context, rows: list[dict[str, str]]) -> None:
    """Keep rows with their responses in the output and with the tracked run."""
    write_json_lines(context.folder / RESPONSES, rows)
    context.log.log_table(rows, "responses.json")
