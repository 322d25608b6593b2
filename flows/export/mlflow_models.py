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
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from gptcore import checkpoint
from gptcore.classifier import TextClassifier
from gptcore.errors import DataError
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
    """Rows with ``text`` to rows with ``label`` and its ``probability``; each text is read as it was in training."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the checkpoint.

        Raises:
            ConfigError: it is no classifier.
        """
        self._classifier = TextClassifier.load(Path(context.artifacts[_ARTIFACT]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Classify each row.

        Raises:
            DataError: a text is no text.
        """
        del context, params
        best, ids = self._classifier.probabilities(_texts(model_input, "text")).max(dim=1)
        labels = [self._classifier.labels[i] for i in ids.tolist()]
        return pd.DataFrame({"label": labels, "probability": best.tolist()})


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
