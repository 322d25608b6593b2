"""Whoever classifies raw text reads it as the classifier was trained to: its data, MLflow's model and the gate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pytest
import torch

from flows.export.mlflow_models import export_mlflow
from flows.gate.items import EvaluationSet
from flows.gate.measure import Instrument, ModelFiles, measure
from flows.gate.policy import GatePolicy
from flows.settings import read_settings
from flows.sources.base import Places
from flows.stages.context import Context
from flows.stages.evaluate.recipe import EvaluateStage
from flows.tracking.journal import new_run_id, open_journal
from flows.tracking.logger import MlflowLogger
from flows.tracking.shipper import Shipper
from gptcore import checkpoint
from gptcore.data import LabelledText
from gptcore.measures import class_probabilities
from gptcore.models import GPTConfig
from gptcore.objectives import Classify
from gptcore.readers import LongInputs
from gptcore.run import Run
from gptcore.tokenizer import train_bpe
from gptcore.train import MemoryLogger, OptimizerConfig, TrainConfig
from gptcore.transforms import Classifier

pytestmark = [pytest.mark.flows, pytest.mark.filterwarnings("ignore")]
LABELS = ("calm", "storm")
TEXTS = [f"{'the keeper slept. ' * i} a bell {i} {'and the wind rose, ' * (12 - i)}" for i in range(1, 13)]


def trained(folder: Path, keep: LongInputs) -> tuple[Path, LabelledText]:
    """A classifier that tells texts apart by the part of them that it reads, and its data."""
    tokenizer = train_bpe([" ".join(TEXTS)], vocab_size=280)
    tokenizer.save(folder / "tokenizer")
    rows = [{"text": text, "label": LABELS[i % 2]} for i, text in enumerate(TEXTS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = LabelledText(folder / "rows.jsonl", folder / "tokenizer", LABELS, 16, keep)
    run = Run(
        data=data,
        held_out=data,
        objective=Classify(),
        tokenizer=folder / "tokenizer",
        model=GPTConfig(vocab_size=tokenizer.vocab_size, context_length=16, width=16, n_layers=1, n_heads=2),
        transforms=(Classifier(labels=LABELS, train="all"),),
        train=TrainConfig(steps=6, batch_size=4, optimizer=OptimizerConfig(lr=0.1)),
    )
    return run.execute(folder / "run", MemoryLogger()).path, data


def asked_by_the_gate(path: Path, folder: Path) -> dict[str, float | None]:
    """Whether each text was given its right class, as the gate measures it."""
    nowhere = read_settings({"GPTWORKS_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    journal = open_journal(nowhere.spool, stage="gate", key="k", run_id=new_run_id())
    log = MlflowLogger(journal, Shipper(nowhere), ui="")
    context = Context(folder, Places(None, folder / "cache"), log, lambda _: None, 1, "")
    items = tuple({"id": str(i), "text": text, "label": LABELS[i % 2]} for i, text in enumerate(TEXTS))
    off = {"state": "off", "reason": ""}
    instrument = Instrument(EvaluationSet({"texts": (), "classify": items}, {}), EvaluateStage(), off, 4, GatePolicy())
    return dict(measure(ModelFiles("key", classifier=path), instrument, context).values["accuracy"])


@pytest.mark.parametrize("keep", ["head", "tail", "head+tail"])
def test_a_long_text_is_classified_alike_by_its_data_mlflow_and_the_gate(tmp_path: Path, keep: LongInputs) -> None:
    path, data = trained(tmp_path, keep)
    wanted = class_probabilities(checkpoint.load(path).model, data.open())
    best, ids = wanted.max(dim=1)
    told = mlflow.pyfunc.load_model(str(export_mlflow(path, tmp_path / "model"))).predict(pd.DataFrame({"text": TEXTS}))
    assert told["label"].tolist() == [LABELS[i] for i in ids.tolist()]
    assert torch.tensor(told["probability"].tolist()).equal(best)
    right = {str(row): float(row % 2 == answer) for row, answer in enumerate(ids.tolist())}
    assert asked_by_the_gate(path, tmp_path / "gate") == right
    for other in {"head", "tail", "head+tail"} - {keep}:  # or nothing was tried here
        data_read_otherwise = replace(data, long_inputs=other).open()
        assert not torch.equal(class_probabilities(checkpoint.load(path).model, data_read_otherwise), wanted)
