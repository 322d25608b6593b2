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
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from flows.export.every import MLFLOW
from gptcore.checkpoint import Loaded
from gptcore.classifier import TextClassifier
from gptcore.errors import CheckpointError, DataError
from gptcore.export.exporter import Exporter, Job, Outputs, write_export
from gptcore.generation import Sampling
from gptcore.models.blueprint import require_known
from gptcore.text import TextModel

_SCRIPT: Final = '''"""What MLflow runs to load the model; its checkpoint lies beside it."""

from mlflow.models import set_model

from flows.mlflow_models import {kind}

set_model({kind}())
'''
_ARTIFACT: Final = "checkpoint"


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


_PROBES: Final = ["The keeper counted the ships.", "Who?", "12 + 7 ="]
_PROBED_TOKENS: Final = 8


def export_mlflow(source: Path, folder: Path) -> Path:
    """Write a checkpoint as a folder that ``mlflow models serve -m FOLDER --env-manager local`` runs.

    The folder is loaded as MLflow loads it, and its answers are compared with the checkpoint's.

    Raises:
        ConfigError: the folder holds something else, the head gives neither words nor classes, or a layer is of a kind
            that nobody knows.
        CheckpointError: the checkpoint is missing or damaged.
        ExportMismatch: what was read back answers otherwise than the checkpoint.
    """
    write_export(MLFLOW, source, folder)
    return folder


class MLflowExporter(Exporter):
    """The checkpoint itself, and the lines that load it; so layers may be stored in any form that is known."""

    marks = ("MLmodel",)
    others = ("artifacts", "*.py", "__pycache__", "*.yaml", "*.yml", "requirements.txt", "metadata")

    def take(self, job: Job) -> Job:
        """The checkpoint as it is.

        Raises:
            ConfigError: a layer is of a kind that nobody knows.
        """
        require_known(job.loaded.model, what=f"exporting {job.source}")
        return job

    def outputs(self, job: Job) -> Outputs:
        """The checkpoint's answers to a few texts."""
        context = PythonModelContext({_ARTIFACT: str(job.source)}, {})
        model = _kind(job.loaded)()
        model.load_context(context)
        return _outputs(model.predict(context, _probes(job.loaded), _probe_params(job.loaded)))

    def write(self, job: Job, folder: Path) -> None:
        """Write the folder as MLflow does."""
        versions = [f"{name}=={importlib.metadata.version(name)}" for name in ("gptworks", "mlflow", "torch")]
        with tempfile.TemporaryDirectory(prefix="gptworks-") as place:
            script = Path(place) / "model.py"
            script.write_text(_SCRIPT.format(kind=_kind(job.loaded).__name__), encoding="utf-8")
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(script),
                artifacts={_ARTIFACT: str(job.source)},
                signature=_signature(job.loaded),
                pip_requirements=versions,
            )

    def read(self, job: Job, folder: Path) -> Outputs:
        """The answers of the folder, loaded as MLflow loads it.

        Raises:
            CheckpointError: it cannot be loaded.
        """
        try:
            model = mlflow.pyfunc.load_model(str(folder))
            return _outputs(model.predict(_probes(job.loaded), params=_probe_params(job.loaded)))
        except MlflowException as error:
            raise CheckpointError(f"MLflow cannot load it: {error}") from error


def _kind(loaded: Loaded) -> type[Classification | TextGeneration]:
    return Classification if loaded.spec.head == "classes" else TextGeneration


def _signature(loaded: Loaded) -> ModelSignature:
    if _kind(loaded) is Classification:
        inputs = Schema([ColSpec(DataType.string, "text")])
        outputs = Schema([ColSpec(DataType.string, "label"), ColSpec(DataType.double, "probability")])
        # MLflow annotates params as if there always were some
        nothing: Any = None
        return ModelSignature(inputs, outputs, params=nothing)
    inputs = Schema([ColSpec(DataType.string, "prompt"), ColSpec(DataType.string, "input", required=False)])
    outputs = Schema([ColSpec(DataType.string, "response")])
    return ModelSignature(inputs, outputs, params=ParamSchema(list(_PARAMS)))


def _probes(loaded: Loaded) -> pd.DataFrame:
    return pd.DataFrame({"text" if _kind(loaded) is Classification else "prompt": _PROBES})


def _probe_params(loaded: Loaded) -> dict[str, Any] | None:
    return {"max_tokens": _PROBED_TOKENS} if _kind(loaded) is TextGeneration else None


def _outputs(rows: pd.DataFrame) -> Outputs:
    """Numbers of what MLflow answers, a column for each, and all else as texts."""
    numbers = rows.select_dtypes("number")
    texts = tuple(str(value) for value in rows.drop(columns=numbers.columns).to_numpy().flatten())
    return Outputs(torch.from_numpy(numbers.to_numpy(dtype="float64")) if len(numbers.columns) else None, texts)


def _texts(rows: pd.DataFrame, column: str) -> list[str]:
    if column not in rows:
        raise DataError(f"the rows have the columns {list(rows.columns)}; {column!r} is missing")
    texts = rows[column].tolist()
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"row {wrong}: {column} is {texts[wrong]!r}; it must be a text")
    return texts
