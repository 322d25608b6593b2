"""Fine-tuning for classification."""

from __future__ import annotations

from dataclasses import replace

from flows.figures.svg import confusion_figure
from flows.stages.baseline import tfidf_accuracy
from flows.stages.classify.recipe import ClassifyStage
from flows.stages.classify.result import ClassifyResult
from flows.stages.context import Context, Inputs
from flows.stages.pipeline import Pipeline
from flows.stages.prepare.result import PrepareResult
from flows.stages.training import CHECKPOINT, execute, save_ledger
from gptcore import checkpoint
from gptcore.checkpoint import read_spec
from gptcore.data import LabelledText
from gptcore.measures import ClassMetrics, classify_rows
from gptcore.objectives import Classify
from gptcore.run import Run
from gptcore.train import TrainConfig
from gptcore.train.logger import PrefixedLogger
from gptcore.transforms import Classifier, Dropout, Transform


def run(pipeline: Pipeline, inputs: Inputs, context: Context) -> ClassifyResult:
    """The base model with a classification head, and a baseline beside it."""
    config, labels = pipeline.classify, inputs.get(PrepareResult).part("classify").labels
    head = Classifier(labels=labels, train=config.tune, n_blocks=config.n_blocks)
    dropout = () if config.dropout is None else (Dropout(config.dropout),)
    result = train_classifier(config, (*dropout, head), config.train, inputs, context, folder="run")
    paths = {split: inputs.path("prepare-data", f"classify/{split}.jsonl") for split in ("train", "test")}
    baseline = {"baseline/tfidf_accuracy": tfidf_accuracy(paths["train"], paths["test"])}
    context.log.log_metrics(baseline)
    return replace(result, metrics=result.metrics | baseline)


def train_classifier(
    config: ClassifyStage,
    transforms: tuple[Transform, ...],
    train: TrainConfig,
    inputs: Inputs,
    context: Context,
    *,
    folder: str,
) -> ClassifyResult:
    """A classifier on the base model, measured on the test rows."""
    tokenizer, base = inputs.path("prepare-data", "tokenizer"), inputs.path("pretrain", CHECKPOINT)
    labels = inputs.get(PrepareResult).part("classify").labels
    length = read_spec(base).words.context_length

    def data(split: str) -> LabelledText:
        path = inputs.path("prepare-data", f"classify/{split}.jsonl")
        return LabelledText(path, tokenizer, labels, length, config.long_inputs, split)

    training = Run(
        init=base,
        transforms=transforms,
        data=data("train"),
        held_out=data("val"),
        objective=Classify(label_smoothing=config.label_smoothing),
        tokenizer=tokenizer,
        train=train,
        seed=context.seed,
    )
    result = execute(training, context, folder=folder)
    test = data("test").open()
    measured: ClassMetrics = classify_rows(checkpoint.load(result.path).model, test, n_classes=len(labels))
    metrics = result.metrics | {"test/accuracy": measured.accuracy, "test/macro_f1": measured.macro_f1}
    save_ledger(context.folder / folder, [data(split) for split in ("train", "val", "test")])
    context.log.log_figure(confusion_figure(measured.confusion, labels), f"figures/confusion-{folder}.png")
    log = context.log if folder == "run" else PrefixedLogger(context.log, prefix=folder)
    log.log_metrics({name: value for name, value in metrics.items() if not name.startswith("perf/")})
    confusion = tuple(map(tuple, measured.confusion))
    return ClassifyResult(checkpoint=f"{folder}/checkpoint", labels=labels, confusion=confusion, metrics=metrics)
