"""The checkpoint as a model of MLflow's: text in, text or classes out, in a data frame.

Models from code, https://mlflow.org/docs/latest/ml/model/models-from-code: what is kept is the checkpoint (safetensors
and JSON) and a few lines that name the class below. Nothing is pickled.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any, Final

import mlflow.pyfunc
import pandas as pd
import torch
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from gptcore import checkpoint
from gptcore.data.labelled import cut_long
from gptcore.errors import ConfigError, DataError
from gptcore.export.places import check_place, labels_of
from gptcore.files import whole_folder
from gptcore.generation import Sampling
from gptcore.text import TextModel

_SCRIPT: Final = '''"""What MLflow runs to load the model; its checkpoint lies beside it."""

from mlflow.models import set_model

from flows.mlflow_models import {kind}

set_model({kind}())
'''
_ARTIFACT: Final = "checkpoint"
_BATCH_SIZE: Final = 32
_MARKS: Final = ("MLmodel",)
_OTHERS: Final = ("artifacts", "*.py", "__pycache__", "*.yaml", "*.yml", "requirements.txt", "metadata")


class TextGeneration(PythonModel):
    """Rows with ``prompt`` and perhaps ``input`` to rows with ``response``."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the checkpoint."""
        self._model = TextModel.load(Path(context.artifacts[_ARTIFACT]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer each row.

        Raises:
            ConfigError: a param is impossible.
            DataError: a prompt is no text.
        """
        del context
        told = {**{spec.name: spec.default for spec in _PARAMS}, **(params or {})}
        sampling = Sampling(
            max_new_tokens=int(told["max_tokens"]),
            temperature=float(told["temperature"]),
            top_k=int(told["top_k"]) or None,
            top_p=float(told["top_p"]),
            seed=int(told["seed"]),
        )
        prompts = _texts(model_input, "prompt")
        extra = _texts(model_input.fillna({"input": ""}), "input") if "input" in model_input else [""] * len(prompts)
        return pd.DataFrame(
            {"response": self._model.respond(list(zip(prompts, extra, strict=True)), sampling=sampling)}
        )


class Classification(PythonModel):
    """Rows with ``text`` to rows with ``label`` and its ``probability``; of a longer text the head is read."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the checkpoint.

        Raises:
            ConfigError: it is no classifier.
        """
        self._loaded = checkpoint.load(Path(context.artifacts[_ARTIFACT]))
        self._labels = labels_of(self._loaded)
        if not self._labels:
            raise ConfigError("the checkpoint is no classifier; save it as a text-generation model")

    @torch.no_grad()
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Classify each row.

        Raises:
            DataError: a text is no text.
        """
        del context, params
        texts, chances = _texts(model_input, "text"), []
        for start in range(0, len(texts), _BATCH_SIZE):
            chances.append(self._chances(texts[start : start + _BATCH_SIZE]))
        every = torch.cat(chances) if chances else torch.zeros(0, len(self._labels))
        best = every.argmax(dim=1).tolist()
        probabilities = [float(row[i]) for row, i in zip(every, best, strict=True)]
        return pd.DataFrame({"label": [self._labels[i] for i in best], "probability": probabilities})

    def _chances(self, texts: list[str]) -> torch.Tensor:
        """Probabilities (B, K), read at the end of text, as in training."""
        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        room = self._loaded.spec.words.context_length - 1
        rows = []
        for ids in tokenizer.encode_batch(texts):
            kept = cut_long(torch.tensor(ids, dtype=torch.int64).numpy(), context_length=room, keep="head")
            rows.append(torch.tensor([*kept.tolist(), tokenizer.end_of_text]))
        lengths = [len(row) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.end_of_text)
        logits: torch.Tensor = model.head(model.summary({"tokens": padded}, lengths=lengths))
        return logits.float().softmax(dim=1)


_PARAMS: Final = (
    ParamSpec("max_tokens", DataType.long, 64),
    ParamSpec("temperature", DataType.double, 0.0),
    ParamSpec("top_k", DataType.long, 0),  # 0: no limit
    ParamSpec("top_p", DataType.double, 1.0),
    ParamSpec("seed", DataType.long, 0),
)


def export_mlflow(source: Path, folder: Path) -> Path:
    """Write a checkpoint as a folder that ``mlflow models serve -m FOLDER --env-manager local`` runs.

    Raises:
        ConfigError: the folder holds something else.
        CheckpointError: the checkpoint is missing or damaged.
    """
    check_place(folder, marks=_MARKS, others=_OTHERS)
    classifies = bool(labels_of(checkpoint.load(source)))
    if classifies:
        inputs = Schema([ColSpec(DataType.string, "text")])
        outputs = Schema([ColSpec(DataType.string, "label"), ColSpec(DataType.double, "probability")])
    else:
        inputs = Schema([ColSpec(DataType.string, "prompt"), ColSpec(DataType.string, "input", required=False)])
        outputs = Schema([ColSpec(DataType.string, "response")])
    # MLflow annotates params as if there always were some
    params: Any = None if classifies else ParamSchema(list(_PARAMS))
    signature = ModelSignature(inputs, outputs, params=params)
    kind = Classification if classifies else TextGeneration
    versions = [f"{name}=={importlib.metadata.version(name)}" for name in ("gptworks", "mlflow", "torch")]
    with tempfile.TemporaryDirectory(prefix="gptworks-") as place, whole_folder(folder) as partial:
        script = Path(place) / "model.py"
        script.write_text(_SCRIPT.format(kind=kind.__name__), encoding="utf-8")
        mlflow.pyfunc.save_model(
            partial,
            python_model=str(script),
            artifacts={_ARTIFACT: str(source)},
            signature=signature,
            pip_requirements=versions,
        )
    return folder


def _texts(rows: pd.DataFrame, column: str) -> list[str]:
    if column not in rows:
        raise DataError(f"the rows have the columns {list(rows.columns)}; {column!r} is missing")
    texts = rows[column].tolist()
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"row {wrong}: {column} is {texts[wrong]!r}; it must be a text")
    return texts
